"""Predict what users will wait and what it will cost, before you deploy: prompt caching, eviction, speculative warming.

>>> import simcache as sc
>>> scenario = sc.Scenario(workload=sc.TypingSessions(users=5), backend=sc.Server(), warming=sc.WarmOnFocus())
>>> result = sc.simulate(scenario, duration_s=600, seed=1)
>>> result == sc.simulate(scenario, duration_s=600, seed=1)
True
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cache.tiers import Tier as Tier
    from .decision.deciding import decide as decide
    from .decision.verdict import Decision as Decision
    from .engine.run import simulate as simulate
    from .engine.sent import sent_requests as sent_requests
    from .errors import DeadlockError as DeadlockError
    from .errors import ExtrapolationWarning as ExtrapolationWarning
    from .errors import InputError as InputError
    from .errors import SimcacheError as SimcacheError
    from .errors import UnknownNameError as UnknownNameError
    from .experiment.comparison import Comparison as Comparison
    from .experiment.comparison import compare as compare
    from .experiment.headroom import Headroom as Headroom
    from .experiment.headroom import headrooms as headrooms
    from .experiment.study import Precision as Precision
    from .experiment.sweeps import Sweep as Sweep
    from .experiment.sweeps import sweep as sweep
    from .faults import Crash as Crash
    from .faults import CrashRate as CrashRate
    from .faults import Slow as Slow
    from .faults import TierOutage as TierOutage
    from .latency import HostedProfile as HostedProfile
    from .latency import LatencyModel as LatencyModel
    from .latency import ServerProfile as ServerProfile
    from .latency import load_profile as load_profile
    from .latency import profile_names as profile_names
    from .latency import save_profile as save_profile
    from .objective import Objective as Objective
    from .planner import Plan as Plan
    from .planner import plan as plan
    from .prompt import Prompt as Prompt
    from .prompt import Request as Request
    from .prompt import Segment as Segment
    from .record_files import load_records as load_records
    from .record_files import save_records as save_records
    from .records import Records as Records
    from .result import Result as Result
    from .result import summarise as summarise
    from .scenario import Cluster as Cluster
    from .scenario import HostedApi as HostedApi
    from .scenario import Scenario as Scenario
    from .scenario import Server as Server
    from .scenario_file import load_scenarios as load_scenarios
    from .scenario_file import to_toml as to_toml
    from .warm_ledger import LedgerEntry as LedgerEntry
    from .warm_ledger import slowdown_of_others_s as slowdown_of_others_s
    from .warming import Moment as Moment
    from .warming import NoWarming as NoWarming
    from .warming import WarmAfterAnswer as WarmAfterAnswer
    from .warming import WarmAfterPause as WarmAfterPause
    from .warming import Warmer as Warmer
    from .warming import WarmEveryTokens as WarmEveryTokens
    from .warming import WarmingPolicy as WarmingPolicy
    from .warming import WarmOnFirstKey as WarmOnFirstKey
    from .warming import WarmOnFocus as WarmOnFocus
    from .warming import WarmOnOpen as WarmOnOpen
    from .warming import WarmUp as WarmUp
    from .warming.foresight import Adaptive as Adaptive
    from .warming.foresight import Oracle as Oracle
    from .warming.keep_alive import KeepAlive as KeepAlive
    from .warming.keep_alive import KeepAliveMyopic as KeepAliveMyopic
    from .warming.keep_alive import KeepAliveOptimal as KeepAliveOptimal
    from .warming.limits import Budgeted as Budgeted
    from .warming.limits import ForSome as ForSome
    from .warming.limits import Together as Together
    from .workload.arrivals import DayAndWeek as DayAndWeek
    from .workload.distributions import Exponential as Exponential
    from .workload.distributions import Fixed as Fixed
    from .workload.distributions import Geometric as Geometric
    from .workload.distributions import LogLogistic as LogLogistic
    from .workload.distributions import LogNormal as LogNormal
    from .workload.distributions import Uniform as Uniform
    from .workload.distributions import Zipf as Zipf
    from .workload.empirical import Empirical as Empirical
    from .workload.empirical import TracePauses as TracePauses
    from .workload.presets import TypingSessions as TypingSessions
    from .workload.synthetic import PoissonRequests as PoissonRequests
    from .workload.synthetic import RequestList as RequestList
    from .workload.trace_writers import write_trace as write_trace
    from .workload.traces import TraceWorkload as TraceWorkload
    from .workload.traces import read_trace as read_trace
    from .workload.typist import DESKTOP as DESKTOP
    from .workload.typist import INPUT_METHOD as INPUT_METHOD
    from .workload.typist import MOBILE as MOBILE
    from .workload.typist import Typing as Typing
    from .workload.typist import Typist as Typist

__version__ = "0.1.0"

# Loaded when first asked for: numpy and simpy alone take half of the 0.4 s that `import simcache` may take on a busy machine.
_HOMES = {
    "decision.deciding": ("decide",),
    "decision.verdict": ("Decision",),
    "experiment.comparison": ("Comparison", "compare"),
    "engine.sent": ("sent_requests",),
    "engine.run": ("simulate",),
    "errors": ("DeadlockError", "ExtrapolationWarning", "InputError", "SimcacheError", "UnknownNameError"),
    "latency": ("HostedProfile", "LatencyModel", "ServerProfile", "load_profile", "profile_names", "save_profile"),
    "objective": ("Objective",),
    "planner": ("Plan", "plan"),
    "prompt": ("Prompt", "Request", "Segment"),
    "records": ("Records",),
    "record_files": ("load_records", "save_records"),
    "result": ("Result", "summarise"),
    "cache.tiers": ("Tier",),
    "faults": ("Crash", "CrashRate", "Slow", "TierOutage"),
    "scenario": ("Cluster", "HostedApi", "Scenario", "Server"),
    "scenario_file": ("load_scenarios", "to_toml"),
    "experiment.study": ("Precision",),
    "experiment.sweeps": ("Sweep", "sweep"),
    "warming": (
        "Moment",
        "NoWarming",
        "WarmAfterAnswer",
        "WarmAfterPause",
        "WarmEveryTokens",
        "WarmOnFirstKey",
        "WarmOnFocus",
        "WarmOnOpen",
        "WarmUp",
        "Warmer",
        "WarmingPolicy",
    ),
    "workload.distributions": ("Exponential", "Fixed", "Geometric", "LogLogistic", "LogNormal", "Uniform", "Zipf"),
    "workload.presets": ("TypingSessions",),
    "workload.synthetic": ("PoissonRequests", "RequestList"),
    "workload.trace_writers": ("write_trace",),
    "workload.traces": ("TraceWorkload", "read_trace"),
    "workload.typist": ("DESKTOP", "INPUT_METHOD", "MOBILE", "Typing", "Typist"),
    "warming.foresight": ("Adaptive", "Oracle"),
    "experiment.headroom": ("Headroom", "headrooms"),
    "warm_ledger": ("LedgerEntry", "slowdown_of_others_s"),
    "warming.keep_alive": ("KeepAlive", "KeepAliveMyopic", "KeepAliveOptimal"),
    "warming.limits": ("Budgeted", "ForSome", "Together"),
    "workload.arrivals": ("DayAndWeek",),
    "workload.empirical": ("Empirical", "TracePauses"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
