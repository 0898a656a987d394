"""Audio: bytes → samples. Files, byte ranges in tars, object storage, containers, decoding and resampling."""
