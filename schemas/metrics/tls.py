"""What a TLS handshake tells of a certificate."""

from __future__ import annotations

from schemas.metrics.metric import Departure, Kind, Metric

METRICS = (
    Metric(
        "tls.handshake.success",
        Kind.GAUGE,
        "1",
        "1 when the handshake and the chain were good.",
        title="TLS handshakes that succeed",
        bad=Departure.DOWN,
        cause="certificate",
        floor=0.5,
    ),
    Metric(
        "tls.handshake.duration",
        Kind.GAUGE,
        "s",
        "Time of TCP connect and handshake.",
        title="time of the TLS handshake",
        bad=Departure.UP,
        cause="network",
        floor=0.2,
    ),
    Metric(
        "tls.certificate.validity.remaining",
        Kind.GAUGE,
        "s",
        "Time until the leaf certificate expires; negative afterwards.",
        title="time until the certificate expires",
    ),
    Metric(
        "tls.certificate.issuer.validity.remaining",
        Kind.GAUGE,
        "s",
        "Time until the first of the certificates above the leaf expires, as verified (as served when verification fails); "
        "negative afterwards.",
        title="time until an issuer's certificate expires",
    ),
    Metric(
        "tls.certificate.host_match",
        Kind.GAUGE,
        "1",
        "1 when the certificate names the host, by OpenSSL's rule; absent where it could not be asked.",
        title="certificates that name their host",
        bad=Departure.DOWN,
        cause="certificate",
        floor=0.5,
    ),
)
