"""Benchmarks: each compares two things in one run, or states what a thing costs, and prints JSON."""
