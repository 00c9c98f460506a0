"""Logs of real requests with their text: the bodies that clients send, as positioned parts that can be compared and counted."""
