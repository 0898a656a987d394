"""ECAPA-TDNN, an encoder of voices."""
