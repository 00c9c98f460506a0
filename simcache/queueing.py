"""Textbook queues: the closed forms that a simulated server is checked against. Poisson arrivals, unlimited room.

``arrivals_per_s`` times ``mean_service_s`` is the load; all of it must be below what the servers can do, or the wait has no
mean. The wait is the time before service starts; the sojourn is wait plus service.

Sources: Kleinrock, Queueing Systems I (1975), chapters 3 and 5; Erlang (1909, 1917); Pollaczek (1930) and Khinchine (1932);
Kleinrock (1967) and Sakata, Noguchi, Oizumi (1971) for processor sharing.
"""

from __future__ import annotations

from .errors import InputError, require_count, require_number


def load(arrivals_per_s: float, mean_service_s: float, servers: int = 1) -> float:
    """The share of time that a server is busy, ``arrivals * service / servers``; raises InputError at 1 or above.

    >>> load(8.0, 0.1)
    0.8
    """
    require_number("arrivals_per_s", arrivals_per_s, at_least=0)
    require_number("mean_service_s", mean_service_s, above=0)
    require_count("servers", servers)
    busy = arrivals_per_s * mean_service_s / servers
    if busy >= 1:
        raise InputError("load", busy, "must be below 1", "The queue grows without end: lower the rate or add servers.")
    return busy


def mg1_wait_s(arrivals_per_s: float, mean_service_s: float, service_cv2: float) -> float:
    """Mean wait of M/G/1 (Pollaczek, Khinchine): ``load * service * (1 + cv2) / (2 (1 - load))``.

    ``service_cv2`` is the squared coefficient of variation of the service time, variance over squared mean.

    >>> mg1_wait_s(8.0, 0.1, 2.0)
    0.6...
    """
    require_number("service_cv2", service_cv2, at_least=0)
    busy = load(arrivals_per_s, mean_service_s)
    return busy * mean_service_s * (1 + service_cv2) / (2 * (1 - busy))


def mm1_wait_s(arrivals_per_s: float, mean_service_s: float) -> float:
    """Mean wait of M/M/1, exponential service: ``load * service / (1 - load)``.

    >>> mm1_wait_s(8.0, 0.1)
    0.4...
    """
    return mg1_wait_s(arrivals_per_s, mean_service_s, 1.0)


def md1_wait_s(arrivals_per_s: float, mean_service_s: float) -> float:
    """Mean wait of M/D/1, equal services: half of M/M/1.

    >>> md1_wait_s(8.0, 0.1)
    0.2...
    """
    return mg1_wait_s(arrivals_per_s, mean_service_s, 0.0)


def erlang_c(servers: int, offered_load: float) -> float:
    """Probability that an arrival waits in M/M/c with ``offered_load = arrivals * service`` erlangs.

    Through Erlang B by its recursion in the number of servers, which neither overflows nor cancels.

    >>> round(erlang_c(2, 1.0), 4)
    0.3333
    """
    require_count("servers", servers)
    require_number("offered_load", offered_load, at_least=0)
    if offered_load >= servers:
        raise InputError("offered_load", offered_load, f"must be below the number of servers, {servers}")
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered_load * blocked / (number + offered_load * blocked)
    return blocked / (1 - offered_load / servers * (1 - blocked))


def mmc_wait_s(arrivals_per_s: float, mean_service_s: float, servers: int) -> float:
    """Mean wait of M/M/c, one queue before ``servers`` equal servers: ``erlang_c * service / (servers (1 - load))``.

    >>> round(mmc_wait_s(16.0, 0.1, 2), 4)
    0.1778
    """
    busy = load(arrivals_per_s, mean_service_s, servers)
    return erlang_c(servers, arrivals_per_s * mean_service_s) * mean_service_s / (servers * (1 - busy))


def ps_sojourn_s(arrivals_per_s: float, mean_service_s: float, service_s: float | None = None) -> float:
    """Mean sojourn of M/G/1 processor sharing, ``service / (1 - load)``, whatever the distribution of services.

    ``service_s`` asks for the mean sojourn of the requests with this service; None: of all.

    >>> ps_sojourn_s(5.0, 0.1), ps_sojourn_s(5.0, 0.1, service_s=1.0)
    (0.2, 2.0)
    """
    busy = load(arrivals_per_s, mean_service_s)
    own_s = mean_service_s if service_s is None else service_s
    require_number("service_s", own_s, at_least=0)
    return own_s / (1 - busy)
