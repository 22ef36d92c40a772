"""Millpond: an open, self-hosted batch and HPC service that speaks the Azure Batch REST API."""

__version__ = "0.1.0"
