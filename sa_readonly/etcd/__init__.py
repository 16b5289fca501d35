"""A fleet on etcd: one key turns the workers of all hosts. It needs ``sa-readonly[etcd]``."""

from .switch import EtcdSwitch

__all__ = ["EtcdSwitch"]
