"""Keys and certificates for one cluster, made by the openssl program; they live as long as the cluster's state."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DAYS = "30"
"""Longer than any cluster of these lives."""

CURVE = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
"""Made in milliseconds, where an RSA key takes up to a second."""


@dataclass(frozen=True)
class Authority:
    """A folder with the files `ca.crt` and `ca.key` of a certificate authority, and what it has signed."""

    folder: Path

    @property
    def certificate(self) -> Path:
        """What clients have to trust."""
        return self.folder / "ca.crt"

    def sign(self, name: str, alternatives: Sequence[str]) -> tuple[Path, Path]:
        """Make a server's certificate and key for names such as `DNS:localhost` and `IP:127.0.0.1`."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        _openssl("genpkey", *CURVE, "-out", str(key))
        _openssl(
            *(
                "req",
                "-x509",
                "-new",
                "-key",
                str(key),
                "-subj",
                f"/CN={name}",
                "-days",
                DAYS,
                "-out",
                str(certificate),
            ),
            *("-CA", str(self.certificate), "-CAkey", str(self.folder / "ca.key")),
            *("-addext", f"subjectAltName={','.join(alternatives)}", "-addext", "basicConstraints=critical,CA:FALSE"),
            *("-addext", "extendedKeyUsage=serverAuth"),
        )
        return certificate, key


def authority(folder: Path) -> Authority:
    """Make a certificate authority in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    key = folder / "ca.key"
    _openssl("genpkey", *CURVE, "-out", str(key))
    _openssl(
        *("req", "-x509", "-new", "-key", str(key), "-subj", "/CN=inferbench-tests", "-days", DAYS),
        *("-out", str(folder / "ca.crt"), "-addext", "keyUsage=critical,keyCertSign,digitalSignature"),
    )
    return Authority(folder)


def service_account_keys(folder: Path) -> tuple[Path, Path]:
    """Make the pair that signs and checks the tokens of service accounts; (private, public)."""
    private, public = folder / "service-accounts.key", folder / "service-accounts.pub"
    _openssl("genpkey", *CURVE, "-out", str(private))
    _openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
    return private, public


def _openssl(*arguments: str) -> None:
    answer = subprocess.run(["openssl", *arguments], check=False, capture_output=True, text=True)
    if answer.returncode != 0:
        raise RuntimeError(f"openssl {' '.join(arguments)} says\n{answer.stderr.strip()}")
