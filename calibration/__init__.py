"""Measuring real hardware and real servers; the only rooms with torch, llama.cpp and sockets."""
