#!/usr/bin/env bash
# Everything that Almanac needs in Azure; can be run again.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deployments/azure/deploy.sh --resource-group GROUP --location REGION
         (--prefect-api-url URL | --self-hosted) [--name NAME] [--tag TAG] [--pool POOL]
         [--base-image IMAGE] [--closed] [--yes]

Creates or updates the resource group and what main.json declares, builds both images in the registry,
starts the worker, and fills in the work pool's template.

  --prefect-api-url URL  a Prefect server that exists, or Prefect Cloud
  --self-hosted          a Prefect server of our own on PostgreSQL, in a virtual network
  --name NAME            first part of every name: 3 to 11 small letters and digits (default: almanac)
  --tag TAG              tag of the images (default: the short commit)
  --pool POOL            work pool that the worker serves (default: azure-container-instance)
  --closed               the store answers the runs' subnet only, the registry only container groups by identity
  --base-image IMAGE     base of both images (default: the one in the Dockerfiles)
  --yes                  do not ask

Secrets come from the environment and are on no command line: PREFECT_API_KEY or
PREFECT_API_AUTH_STRING (USER:PASSWORD) of the server; POSTGRESQL_PASSWORD with --self-hosted.

What costs while nothing runs: the worker (1 core, 1 GB), the registry (Basic), the store and the
logs by the gigabyte; with --self-hosted also the server (1 core, 2 GB), PostgreSQL (B1ms, 32 GB), a NAT
gateway and its address; with --closed a Premium registry, and that gateway as well. A run costs its cores and memory by the second. Prices: docs/azure.md.

You must be logged in (az login), and may create role definitions and assignments in the group
(Owner, or Contributor with User Access Administrator).
TEXT
}

fail() {
  echo "deploy.sh: $1" >&2
  exit 2
}

group="" location="" api="" own=false name=almanac tag="" pool=azure-container-instance base="" closed=false yes=false
while [[ $# -gt 0 ]]; do
  case "$1" in
    --resource-group | --location | --prefect-api-url | --name | --tag | --pool | --base-image)
      [[ $# -ge 2 ]] || fail "$1 needs a value. See --help."
      case "$1" in
        --resource-group) group=$2 ;;
        --location) location=$2 ;;
        --prefect-api-url) api=$2 ;;
        --name) name=$2 ;;
        --tag) tag=$2 ;;
        --pool) pool=$2 ;;
        --base-image) base=$2 ;;
      esac
      shift 2
      ;;
    --self-hosted) own=true && shift ;;
    --closed) closed=true && shift ;;
    --yes) yes=true && shift ;;
    --help | -h) usage && exit 0 ;;
    *) fail "$1 is not an option. See --help." ;;
  esac
done

[[ -n "$group" ]] || fail "--resource-group is missing. See --help."
[[ -n "$location" ]] || fail "--location is missing. See --help."
[[ "$name" =~ ^[a-z][a-z0-9]{2,10}$ ]] ||
  fail "--name $name: Azure takes this in no name of an account. Expected 3 to 11 small letters and digits, a letter first."
[[ "$api" != *@* ]] ||
  fail "--prefect-api-url carries a credential. Expected https://HOST/api; set PREFECT_API_AUTH_STRING, and revoke this one."
if $own; then
  [[ -z "$api" ]] || fail "--self-hosted and --prefect-api-url exclude each other."
  [[ -n "${POSTGRESQL_PASSWORD:-}" ]] || fail "POSTGRESQL_PASSWORD is not set; it becomes the database's password."
  [[ -n "${PREFECT_API_AUTH_STRING:-}" ]] || fail "PREFECT_API_AUTH_STRING is not set; the server will want it: USER:PASSWORD."
else
  [[ -n "$api" ]] || fail "give --prefect-api-url, or --self-hosted for a server of our own."
fi
command -v az >/dev/null || fail "az is not installed: https://learn.microsoft.com/cli/azure/install-azure-cli"

root=$(cd "$(dirname "$0")/../.." && pwd)
tag=${tag:-$(git -C "$root" rev-parse --short HEAD)}

if ! $yes; then
  usage | sed -n '/^What costs/,/^$/p'
  read -r -p "Deploy to resource group $group in $location? [y/N] " answer
  [[ "$answer" == [yY] ]] || fail "nothing was done."
fi

work=$(mktemp -d) open=false
finish() {
  if $open; then deploy >/dev/null && echo "The registry is closed again." >&2; fi
  rm -rf "$work"
}
trap finish EXIT
chmod 700 "$work"

# Secrets go through a file that only this user may read: a command line can be seen by others.
python3 - "$work/parameters.json" <<'PYTHON'
import json, os, sys
named = {"prefectApiKey": "PREFECT_API_KEY", "prefectAuthString": "PREFECT_API_AUTH_STRING",
         "postgresqlPassword": "POSTGRESQL_PASSWORD"}
values = {name: {"value": os.environ.get(variable, "")} for name, variable in named.items()}
with open(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
    json.dump({"contentVersion": "1.0.0.0", "parameters": values}, file)
PYTHON

deploy() {
  az deployment group create --resource-group "$group" --name "$name" --only-show-errors \
    --template-file "$root/deployments/azure/main.json" --parameters "@$work/parameters.json" \
    --parameters name="$name" selfHosted="$own" prefectApiUrl="$api" workPool="$pool" image="almanac:$tag" closed="$closed" "$@" \
    --query properties.outputs --output json
}

build() {
  az acr build --registry "$registry" --image "$1:$tag" --file "$root/$2" \
    ${base:+--build-arg "BASE_IMAGE=$base"} --only-show-errors --output none "$root"
}

value() {
  python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]]["value"])' "$1" "$2"
}

az group create --name "$group" --location "$location" --only-show-errors --output none
echo "1/4 storage, registry, identities, logs" >&2
open=$closed
deploy building=true >"$work/first.json"
registry=$(value "$work/first.json" registry)
registry=${registry%%.*}

echo "2/4 images $tag in $registry" >&2
build almanac deployments/Dockerfile
build almanac-worker deployments/worker/Dockerfile

echo "3/4 worker" >&2
deploy workerImage="almanac-worker:$tag" >"$work/outputs.json"
open=false

echo "4/4 work pool" >&2
python3 -c 'import json, sys; print(json.dumps(json.load(open(sys.argv[1]))["poolVariables"]["value"]))' \
  "$work/outputs.json" >"$work/variables.json"
template="$root/deployments/work_pools/azure-container-instance.json"
python3 "$root/deployments/pool_template.py" "$template" "$work/variables.json" >"$group-pool.json"
cat <<TEXT
The work pool's template, filled in: $group-pool.json
Where the Prefect server can be reached ($(value "$work/outputs.json" prefectApiUrl)):

    prefect work-pool create $pool --type azure-container-instance --base-job-template $group-pool.json --overwrite
TEXT
