#!/usr/bin/env bash
# What of Almanac is in Azure, and what of it runs.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deployments/azure/show.sh --resource-group GROUP [--name NAME]

Shows the resources, the container groups with their states (what costs by the second), how many
deployment records there are of the 800 that a group holds, the worker's last lines, and the values for
the work pool. Changes nothing.
TEXT
}

fail() {
  echo "show.sh: $1" >&2
  exit 2
}

group="" name=almanac
while [[ $# -gt 0 ]]; do
  case "$1" in
    --resource-group | --name)
      [[ $# -ge 2 ]] || fail "$1 needs a value. See --help."
      if [[ "$1" == --name ]]; then name=$2; else group=$2; fi
      shift 2
      ;;
    --help | -h) usage && exit 0 ;;
    *) fail "$1 is not an option. See --help." ;;
  esac
done
[[ -n "$group" ]] || fail "--resource-group is missing. See --help."
command -v az >/dev/null || fail "az is not installed: https://learn.microsoft.com/cli/azure/install-azure-cli"

echo "Resources"
az resource list --resource-group "$group" --query "[].{name: name, type: type, location: location}" --output table
echo
echo "Container groups: the worker, and runs. A run's group is deleted at its end; an older one was left behind."
az container list --resource-group "$group" --output table \
  --query "[].{name: name, state: provisioningState, cpu: containers[0].resources.requests.cpu, memory: containers[0].resources.requests.memoryInGb}"
echo
echo "Deployment records, of 800"
az deployment group list --resource-group "$group" --query "length(@)" --output tsv
echo
echo "Worker"
az container logs --resource-group "$group" --name "$name-worker" 2>/dev/null | tail -n 20 || echo "not deployed"
echo
echo "Values for the work pool"
az deployment group show --resource-group "$group" --name "$name" --query properties.outputs.poolVariables.value
