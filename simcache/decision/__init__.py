"""Decisions from real logs: a log's own arrivals under other lifetimes, markers, warming and providers, and the answer in words."""
