"""How both sides of a connection notice that the other is gone."""

KEEPALIVE: list[tuple[str, int]] = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Notices a frozen peer whose kernel still acknowledges.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
    # Two by default; after that an idle stream would notice a cut link in a minute.
    ("grpc.http2.max_pings_without_data", 0),
]
"""A cut link or a frozen peer is noticed in about 15 s. Both sides need it."""
