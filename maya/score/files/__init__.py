"""Readers of transcripts: Kaldi text, trn, CTM, STM, RTTM, SegLST and JSON lines."""
