"""Architectures, one a file; all are :class:`pmtlib.networks.base.FaceNetwork`."""
