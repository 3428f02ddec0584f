"""Calibration of the verdict: rates of false accusation, detection and certification, on simulated audits and real models."""
