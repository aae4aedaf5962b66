"""Which version this is."""


def installed_version() -> str:
    """The installed distribution's version; "unknown" when run from a checkout."""
    from importlib import metadata  # 20 ms, for those who ask

    try:
        return metadata.version("dstack-mesh")
    except metadata.PackageNotFoundError:
        return "unknown"
