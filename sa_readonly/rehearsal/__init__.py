"""Rehearsal: what a flip would refuse is noted, and done all the same.

The examination is that of a read-only engine, see :mod:`.engines.guard`; this wing knows where in
the application something was asked for, keeps what was noted, and puts it together for a reader.
"""
