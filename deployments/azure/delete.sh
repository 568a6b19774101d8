#!/usr/bin/env bash
# Deletes everything of Almanac in Azure.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: deployments/azure/delete.sh --resource-group GROUP [--keep-store] [--yes]

Deletes the resource group with everything in it, the store included, and the role definitions that
were made for it. There is no way back but the week in which Azure can restore a storage account.

  --keep-store  leave the storage account, the identities that may use it, and the group that they are in
  --yes         do not ask

Nothing costs any more afterwards; with --keep-store, only the store by the gigabyte.
TEXT
}

fail() {
  echo "delete.sh: $1" >&2
  exit 2
}

group="" keep=false yes=false
while [[ $# -gt 0 ]]; do
  case "$1" in
    --resource-group)
      [[ $# -ge 2 ]] || fail "$1 needs a value. See --help."
      group=$2 && shift 2
      ;;
    --keep-store) keep=true && shift ;;
    --yes) yes=true && shift ;;
    --help | -h) usage && exit 0 ;;
    *) fail "$1 is not an option. See --help." ;;
  esac
done
[[ -n "$group" ]] || fail "--resource-group is missing. See --help."
command -v az >/dev/null || fail "az is not installed: https://learn.microsoft.com/cli/azure/install-azure-cli"

scope=$(az group show --name "$group" --query id --output tsv)
az resource list --resource-group "$group" --query "[].{name: name, type: type}" --output table
if ! $yes; then
  read -r -p "Type the name of the resource group to delete this: " answer
  [[ "$answer" == "$group" ]] || fail "nothing was deleted."
fi

az role definition list --custom-role-only true --scope "$scope" --query "[?assignableScopes[0]=='$scope'].name" --output tsv |
  while read -r role; do
    az role assignment delete --role "$role" --scope "$scope" --only-show-errors </dev/null
    az role definition delete --name "$role" --scope "$scope" --custom-role-only true --only-show-errors </dev/null
  done

if ! $keep; then
  az group delete --name "$group" --yes
  echo "Deleted: $group"
  exit 0
fi
# Roles on the store stay with it, and cannot be given to another identity of the same name: identities stay, too.
# One depends on the other, so what cannot go yet goes in a later round.
left() {
  az resource list --resource-group "$group" --output tsv \
    --query "[?type!='Microsoft.Storage/storageAccounts' && type!='Microsoft.ManagedIdentity/userAssignedIdentities'].id"
}
for _ in 1 2 3 4 5; do
  ids=$(left)
  [[ -n "$ids" ]] || break
  while read -r id; do
    az resource delete --ids "$id" --only-show-errors --output none </dev/null || true
  done <<<"$ids"
done
ids=$(left)
[[ -z "$ids" ]] || fail "these could not be deleted; run it again:"$'\n'"$ids"
echo "Deleted everything in $group but the storage account and the identities."
