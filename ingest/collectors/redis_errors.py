"""What would mend an error that Redis answers with. Pure.

Source: redis.io, Cluster specification (MOVED, ASK, TRYAGAIN, CLUSTERDOWN, CROSSSLOT), Replication (MASTERDOWN, READONLY),
ACL (NOAUTH, WRONGPASS, NOPERM); redis/src/server.c, shared error replies.
"""

from __future__ import annotations

import re

from redis import exceptions

REMEDIES = {
    "NOAUTH": "Put user and password behind the resource's url",
    "WRONGPASS": "Check user and password behind the resource's url",
    "NOPERM": "Grant it: ACL SETUSER ... +ping +info +latency|latest +slowlog|get, +@read on the queues",
    "MOVED": "The key lives on another node of the cluster: declare the queue at the node that has it",
    "ASK": "The key is moving to another node of the cluster; declare the queue at the node that will have it",
    "TRYAGAIN": "The key is moving between nodes of the cluster; it is asked again at the next look",
    "CROSSSLOT": "Ask each key of a cluster by itself: declare queues one by one",
    "CLUSTERDOWN": "The cluster does not serve this slot: see CLUSTER INFO and which nodes are away",
    "LOADING": "It answers once its data set is loaded; INFO persistence says when",
    "MASTERDOWN": "The replica has lost its primary and refuses to answer: see INFO replication, or set replica-serve-stale-data yes",
    "READONLY": "It is a replica; nothing is written here, so name another node or report this with the log",
    "BUSY": "A script holds the server: SCRIPT KILL, or FUNCTION KILL, ends one that has written nothing",
    "MISCONF": "It cannot save to its disk and refuses writes: see INFO persistence and its log",
    "OOM": "Its memory is full: raise maxmemory, or choose a policy of eviction",
    "NOREPLICAS": "Too few replicas are connected: see INFO replication and min-replicas-to-write",
    "WRONGTYPE": "The key changed its type between two questions; it is asked again at the next look",
    "NOPROTO": "It speaks another version of the protocol: name a Redis 6 or later, or Valkey",
    "DENIED": "It runs in protected mode: give it a password, or bind it to an address that this host may use",
    "MAXCLIENTS": "It takes no more clients: raise maxclients, or find who holds them (CLIENT LIST)",
    "UNKNOWN": "The server does not know this command: it was renamed or is another program; nothing else is missing",
}
_BY_CLASS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.MovedError, "MOVED"),  # before what it is a kind of
    (exceptions.AskError, "ASK"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.MaxConnectionsError, "MAXCLIENTS"),
)
# The library takes the first word off the errors that it knows, and leaves it where it does not.
_BY_TEXT = (
    (re.compile(r"^NOAUTH|authentication required", re.I), "NOAUTH"),
    (re.compile(r"^WRONGPASS|invalid (?:username|password)|without any password configured", re.I), "WRONGPASS"),
    (re.compile(r"no permissions", re.I), "NOPERM"),
    (re.compile(r"max number of clients", re.I), "MAXCLIENTS"),
    (re.compile(r"protected mode", re.I), "DENIED"),
    (re.compile(r"unknown (?:sub)?command|unknown subcommand", re.I), "UNKNOWN"),
    (re.compile(r"wrong kind of value", re.I), "WRONGTYPE"),
    (re.compile(r"unsupported protocol", re.I), "NOPROTO"),
)
_AWAY = "Check that the server runs and that its address can be reached from here"


def remedy(error: Exception) -> str:
    """What to do about it."""
    return REMEDIES.get(
        code(error), _AWAY if isinstance(error, OSError | exceptions.ConnectionError) else _other(error)
    )


def code(error: Exception) -> str:
    """The word by which Redis names the error; empty where there is none."""
    text = str(error)
    for pattern, named in _BY_TEXT:
        if pattern.search(text):
            return named
    for kind, named in _BY_CLASS:
        if isinstance(error, kind):
            return named
    if isinstance(error, exceptions.AuthenticationError):
        return "WRONGPASS"
    word = text.partition(" ")[0].lstrip("-")
    return word if word in REMEDIES else ""


def _other(error: Exception) -> str:
    if isinstance(error, exceptions.ResponseError):
        return "See what the message says; the rest of the look goes on without it"
    return "See what listens there: it must be a Redis or Valkey that speaks RESP"
