"""The voice server: sessions of live speech, an engine that computes many at once, and the protocols."""
