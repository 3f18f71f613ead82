"""Connections that can go to another worker, before and after the death of this one."""
