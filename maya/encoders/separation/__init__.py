"""Encoders that separate sources: waveform → filterbank → masks of each source × filterbank."""
