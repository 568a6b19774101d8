"""The certificates of a Dask cluster, for the runs on it."""

import os
from pathlib import Path

import yaml
from distributed.security import Security


def save_certificates(security: Security, path: Path) -> None:
    """Write the authority, certificate and key of a cluster's clients to a file that only its owner can read.

    Dask reads it in each process with `DASK_CONFIG=path`.
    """
    client = security.get_tls_config_for_role("client")
    comm = {
        "require-encryption": True,
        "tls": {"ca-file": client["ca_file"], "client": {"cert": client["cert"], "key": client["key"]}},
    }
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        yaml.safe_dump({"distributed": {"comm": comm}}, file)
