"""AWS credentials as they would be found, asking nobody: whole, consistent, not over."""

import configparser
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dstack_cli.checkup.finding import Finding, failed, passed, warned

CHECK = "cloud"
KEY, SECRET, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
SOON = timedelta(minutes=15)
EXPIRIES = ("aws_session_expiration", "aws_expiration", "x_security_token_expires", "expiration")
"""Keys under which tools that fetch session tokens note until when they hold."""

_KEY_ID = re.compile(r"(AKIA|ASIA)[A-Z0-9]{12,124}")
_WAYS = {"aws_access_key_id", "role_arn", "sso_session", "sso_start_url", "credential_process"}

Sections = dict[str, dict[str, str]]


def check_cloud(
    environ: Mapping[str, str], user_home: Path | None, now: datetime
) -> Sequence[Finding]:
    """What a request to AWS would be signed with, and what is wrong with that."""
    try:
        credentials, config = _files(environ, user_home)
    except (configparser.Error, UnicodeDecodeError, OSError, RuntimeError) as broken:
        what = f"a file of AWS cannot be read: {_first_line(broken)}"
        return [failed(CHECK, "credentials-broken", what, "aws configure")]
    found = [*_of_environment(environ, now)]
    named = environ.get("AWS_PROFILE") or environ.get("AWS_DEFAULT_PROFILE") or ""
    by_keys = bool(environ.get(KEY) and environ.get(SECRET))
    if not by_keys:
        found += _of_profile(named, credentials, config, user_home, now)
    elif named:
        found.append(
            warned(
                CHECK,
                "credentials-conflict",
                f"AWS_PROFILE={named} has no effect: the keys in {KEY} come first",
                f"unset {KEY} {SECRET} {TOKEN}   (or: unset AWS_PROFILE)",
            )
        )
    if found:
        return found
    if not by_keys and not credentials and not config:
        return [passed(CHECK, "no AWS credentials: nothing is rented from here")]
    return [_region(environ, named, config, by_keys)]


def _of_environment(environ: Mapping[str, str], now: datetime) -> list[Finding]:
    key, secret, token = (environ.get(name, "") for name in (KEY, SECRET, TOKEN))
    if not key and not secret:
        if not token:
            return []
        what = f"{TOKEN} is set without {KEY} and {SECRET}: it is ignored"
        return [warned(CHECK, "credentials-incomplete", what, f"unset {TOKEN}")]
    if not key or not secret:
        has, lacks = (KEY, SECRET) if key else (SECRET, KEY)
        what = f"{has} is set and {lacks} is not: AWS refuses half a key"
        return [failed(CHECK, "credentials-incomplete", what, f"export {lacks}=…   or unset {has}")]
    expiry = environ.get("AWS_CREDENTIAL_EXPIRATION") or environ.get("AWS_SESSION_EXPIRATION")
    return _of_keys("the environment", key, secret, token, expiry, now)


def _of_keys(
    where: str, key: str, secret: str, token: str, expiry: str | None, now: datetime
) -> list[Finding]:
    if key != key.strip() or secret != secret.strip() or not _KEY_ID.fullmatch(key.strip()):
        what = f"the key in {where} is none: AKIA… or ASIA…, no blanks, no quotes"
        return [failed(CHECK, "credentials-broken", what, "aws configure")]
    if key.startswith("ASIA") and not token:
        what = f"the key in {where} is of a session (ASIA…) and its token is missing"
        return [failed(CHECK, "credentials-incomplete", what, f"export {TOKEN}=…")]
    return _expired(f"the session in {where}", expiry, now, "fetch new session credentials")


def _of_profile(
    named: str, credentials: Sections, config: Sections, user_home: Path | None, now: datetime
) -> list[Finding]:
    name = named or "default"
    in_config = config.get("default" if name == "default" else f"profile {name}", {})
    profile = {**in_config, **credentials.get(name, {})}
    if named and not profile:
        there = sorted({*credentials, *(one[8:] for one in config if one.startswith("profile "))})
        what = (
            f"AWS_PROFILE={named}, and no file has that profile (there: {', '.join(there) or '-'})"
        )
        return [failed(CHECK, "no-profile", what, f"aws configure --profile {named}")]
    where = f"profile {name}"
    key, secret = profile.get("aws_access_key_id", ""), profile.get("aws_secret_access_key", "")
    if bool(key) != bool(secret):
        lacks = "aws_secret_access_key" if key else "aws_access_key_id"
        what = f"{where} has half a key: {lacks} is missing"
        fix = f"aws configure --profile {name}"
        return [failed(CHECK, "credentials-incomplete", what, fix)]
    if key:
        expiry = next((profile[one] for one in EXPIRIES if one in profile), None)
        return _of_keys(where, key, secret, profile.get("aws_session_token", ""), expiry, now)
    if "sso_session" in profile or "sso_start_url" in profile:
        return _of_sign_on(name, profile, config, user_home, now)
    if named and not _WAYS & profile.keys():
        what = f"{where} has no key, no role and no single sign-on"
        return [failed(CHECK, "credentials-incomplete", what, f"aws configure --profile {name}")]
    return []


def _of_sign_on(
    name: str, profile: Mapping[str, str], config: Sections, user_home: Path | None, now: datetime
) -> list[Finding]:
    login = f"aws sso login --profile {name}"
    session = config.get(f"sso-session {profile.get('sso_session', '')}", {})
    if "sso_session" in profile and not session:
        what = f"profile {name} names sso-session {profile['sso_session']}, which is not there"
        return [failed(CHECK, "credentials-incomplete", what, "aws configure sso")]
    url = session.get("sso_start_url") or profile.get("sso_start_url", "")
    until = [one for one in _sign_ons(user_home, url)]
    if not until:
        what = f"profile {name} uses single sign-on, and nobody signed on"
        return [failed(CHECK, "session-expired", what, login)]
    return _expired(f"the sign-on of profile {name}", max(until), now, login)


def _sign_ons(user_home: Path | None, url: str) -> list[str]:
    found: list[str] = []
    for path in (user_home or Path("/nowhere")).glob(".aws/sso/cache/*.json"):
        try:
            content = json.loads(path.read_text())
            if content.get("startUrl") == url and "accessToken" in content:
                found.append(str(content["expiresAt"]))
        except (OSError, ValueError, KeyError, AttributeError):
            continue
    return found


def _expired(what: str, expiry: str | None, now: datetime, fix: str) -> list[Finding]:
    if not expiry:
        return []
    try:
        until = datetime.fromisoformat(expiry.replace("UTC", "+00:00"))
    except ValueError:
        return []
    left = until.replace(tzinfo=until.tzinfo or UTC) - now
    if left <= timedelta():
        return [failed(CHECK, "session-expired", f"{what} was over at {until:%F %H:%M} UTC", fix)]
    if left < SOON:
        minutes = left / timedelta(minutes=1)
        return [warned(CHECK, "session-soon", f"{what} is over in {minutes:.0f} minutes", fix)]
    return []


def _region(environ: Mapping[str, str], named: str, config: Sections, by_keys: bool) -> Finding:
    of_profile = config.get(f"profile {named}" if named not in ("", "default") else "default", {})
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    region = region or of_profile.get("region", "")
    by = "keys in the environment" if by_keys else f"profile {named or 'default'}"
    if not region:
        what = f"{by}, and no region is set"
        return warned(CHECK, "no-region", what, "export AWS_REGION=eu-north-1   (or yours)")
    return passed(CHECK, f"{by}, region {region}; nobody was asked whether they hold")


def _files(environ: Mapping[str, str], user_home: Path | None) -> tuple[Sections, Sections]:
    folder = (user_home or Path("/nowhere")) / ".aws"
    places = (
        environ.get("AWS_SHARED_CREDENTIALS_FILE") or str(folder / "credentials"),
        environ.get("AWS_CONFIG_FILE") or str(folder / "config"),
    )
    credentials, config = (_sections(Path(one).expanduser()) for one in places)
    return credentials, config


def _sections(path: Path) -> Sections:
    parser = configparser.RawConfigParser(default_section="no such section")
    try:
        parser.read_string(path.read_text(), source=str(path))
    except FileNotFoundError:
        return {}
    return {name: dict(parser.items(name)) for name in parser.sections()}


def _first_line(error: Exception) -> str:
    """What and where, without the line itself, which may be a key."""
    match error:
        case configparser.MissingSectionHeaderError():
            return f"{error.source}, line {error.lineno}: no [section] before it"
        case configparser.ParsingError():
            return f"{error.source}, line {error.errors[0][0]}"
        case RuntimeError():
            return "its name begins with ~ and nobody's home"
        case _:
            return f"{type(error).__name__} {getattr(error, 'filename', None) or ''}".strip()
