"""Addresses of status callbacks: which may be asked for, and which machines may be called.

They come from outside, so a caller could have the service call machines that only it can reach. Hosts are therefore named by the
operator, and what a name resolves to must be a public address, or lie in a network that the operator names as well.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from verify.errors import InputError

MOST_ADDRESSES = 5
"""Largest number of callback addresses of one request."""
LONGEST_ADDRESS = 500
"""Largest number of characters of one address."""
PORTS = {"https": 443, "http": 80}
_HOST = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]+\]")
_PRINTABLE = re.compile(r"[!-\[\]-~]+")
"""No space, control character or backslash: programs disagree on what these mean in an address."""
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses as IPv6 machines reach them through a translator (RFC 6052)."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class AllowedCallbacks:
    """Hosts that may be called; without any, callbacks are refused.

    Attributes:
        hosts: names, each with the port if it is not that of the scheme: "shop.example.org", "shop.example.org:8443".
        networks: networks that may be called although they are not public.
    """

    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, hosts: Iterable[str], networks: Iterable[str] = ()) -> "AllowedCallbacks":
        """Read hosts and networks as the operator writes them.

        Raises:
            InputError: one is not a host, or not a network.
        """
        names = [host.strip().lower() for host in hosts]
        for name in names:
            if not re.fullmatch(rf"({_HOST.pattern})(:\d{{1,5}})?", name):
                raise InputError(
                    f"--callback-hosts takes host names such as shop.example.org or shop.example.org:8443, not {name!r}."
                )
        try:
            return cls(frozenset(names), tuple(ipaddress.ip_network(network.strip()) for network in networks))
        except ValueError:
            raise InputError("--callback-networks takes networks such as 10.1.0.0/16 or fd00::/8.") from None

    def require_all(self, given: Any) -> tuple[str, ...]:
        """Return the addresses that a request asks to be called at, each once.

        Raises:
            InputError: they are not a list of addresses, too many, or one may not be called; no address is repeated.
        """
        if not given:
            return ()
        if not isinstance(given, list) or not all(isinstance(url, str) for url in given):
            raise InputError("status_callback_urls must be a list of addresses.")
        if not self.hosts:
            raise InputError("callbacks are not made. Leave status_callback_urls out, and read the status of the request instead.")
        found = tuple(dict.fromkeys(given))
        if len(found) > MOST_ADDRESSES:
            raise InputError(f"status_callback_urls has {len(found)} addresses; at most {MOST_ADDRESSES} are accepted.")
        for url in found:
            self.require(url)
        return found

    def require(self, url: str) -> SplitResult:
        """Check one address and return its parts.

        Raises:
            InputError: it is not an HTTPS address of an allowed host; plain HTTP is accepted for this machine alone.
        """
        refused = InputError(
            "an address in status_callback_urls may not be called. Use https://HOST/PATH, without a user name and a fragment, with "
            "a host that the operator of this service allows."
        )
        try:
            parts = urlsplit(url)
            host, port = (parts.hostname or "").lower(), parts.port
        except ValueError:
            raise refused from None
        shown = f"[{host}]" if ":" in host else host
        usual = PORTS.get(parts.scheme)
        names = {f"{shown}:{port or usual}"} | ({shown} if port in (None, usual) else set())
        if (
            len(url) > LONGEST_ADDRESS
            or not _PRINTABLE.fullmatch(url)
            or not _HOST.fullmatch(shown)
            or "@" in parts.netloc
            or "#" in url
            or (parts.scheme != "https" and not (parts.scheme == "http" and is_this_machine(host)))
            or not names & self.hosts
        ):
            raise refused
        return parts

    def resolve(self, host: str, port: int) -> list[str]:
        """Return the numeric addresses of a host, all of which may be called.

        Raises:
            OSError: it has none, or one of them may not be called.
        """
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        if not found or not all(self.may_call(ipaddress.ip_address(address.partition("%")[0])) for address in found):
            raise PermissionError("the host has an address that may not be called")
        return list(dict.fromkeys(found))

    def may_call(self, address: Address) -> bool:
        """Return whether a machine may be called: a public one, or one in a network that the operator names."""
        inner = _embedded(address)
        if inner is not None:
            return self.may_call(inner)
        if any(address in network for network in self.networks if network.version == address.version):
            return True
        return address.is_global and not address.is_multicast


def _embedded(address: Address) -> Address | None:
    """Return the IPv4 address that an IPv6 address stands for, or None."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def is_this_machine(host: str) -> bool:
    """Return whether a host name or address is this machine's own (loopback)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
