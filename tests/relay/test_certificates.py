"""What clients are shown: taken up when its files change, and never half."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from proxy.config import ClientTlsConfig
from proxy.relay.certificates import CertificateError, ServerCertificate, make_self_signed


class Files:
    """A certificate with its key, and a CA, in files whose times always change."""

    def __init__(self, directory: Path) -> None:
        self.certificate, self.ca = directory / "certificate.pem", directory / "ca.pem"
        self.config = ClientTlsConfig(certificate=str(self.certificate), ca=str(self.ca))
        self.write(self.certificate, make_self_signed())
        self.write(self.ca, trustme.CA().cert_pem.bytes())

    def write(self, path: Path, data: bytes) -> None:
        path.with_suffix(".new").write_bytes(data)
        path.with_suffix(".new").replace(path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_nothing_is_loaded_again_while_nothing_has_changed(files: Files):
    shown = ServerCertificate(files.config)
    context = shown.context
    assert not shown.refresh()
    assert shown.context is context
    files.write(files.certificate, make_self_signed())
    assert shown.refresh()
    assert shown.context is not context


def test_a_certificate_beside_a_broken_ca_changes_nothing(files: Files):
    shown = ServerCertificate(files.config)
    before = (shown.context, shown._fingerprint)
    files.write(files.certificate, make_self_signed())
    files.write(files.ca, b"nonsense")
    with pytest.raises(CertificateError, match=r"ca\.pem"):
        shown.refresh()
    assert (shown.context, shown._fingerprint) == before
    files.write(files.ca, trustme.CA().cert_pem.bytes())
    assert shown.refresh()
    assert shown.context is not before[0] and shown._fingerprint != before[1]


def test_a_certificate_that_only_openssl_can_read_is_refused_in_words(files: Files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", lambda *_: None)
    files.write(files.certificate, b"-----BEGIN TRUSTED CERTIFICATE-----\n-----END TRUSTED CERTIFICATE-----\n")
    with pytest.raises(CertificateError, match=r"certificate\.pem"):
        ServerCertificate(files.config)
