"""All reasons for which an utterance is dropped, flagged or found broken, with their meanings."""

UNUSABLE = {
    "no_transcript": "audio without a text",
    "missing_audio": "no such file",
    "unreadable_text": "the file with the text is not UTF-8",
    "unreadable_name": "the name of the file is not UTF-8",
    "outside_recording": "it begins before its recording, or lies outside of the audio that is there",
    "no_channel": "the file lacks the channel that the corpus names",
    "empty_transcript": "nothing speakable is left of the text",
    "tar_mismatch": "not what the tar holds at that place",
    "unreadable_audio": "damaged, or not audio",
    "silent": "nothing is heard",
    "sample_rate_mismatch": "another sampling rate than the manifest says",
    "duration_mismatch": "another duration than the manifest says",
    "text_too_long": "more text than can be spoken in the time",
    "too_short": "shorter than allowed",
    "too_long": "longer than allowed",
}
SOUND = {
    "clipped": "samples stay at full scale: the recording was too loud for its device",
    "too_quiet": "the speech is far below the usual level",
    "too_loud": "the speech is far above the usual level",
    "noisy": "the noise is nearly as loud as the speech",
    "narrow_band": "nothing above 4 kHz, or hardly anything: telephone speech at a higher sampling rate",
    "long_silence": "much silence before or after the speech",
    "dc_offset": "the samples do not lie around zero",
}
TEXT = {
    "wrong_script": "most letters are not of the language's script",
    "mixed_script": "some letters are not of the language's script",
    "digits": "numbers in digits: how they were read is not known",
    "markup": "brackets around words: a note, or words that were not read",
    "stray_mark": "a word begins with a combining sign",
    "html_entities": "written with HTML entities (&amp;), which were taken for what they stand for",
    "damaged_text": "characters that were lost or mixed up in a conversion",
    "too_little_audio": "far shorter than such a text takes in this language",
    "too_little_text": "far longer than such a text takes in this language",
    "repeated_text": "the same speaker says the same sentence in another utterance",
    "duplicate_audio": "the same bytes of audio as another utterance, and the same text",
    "conflicting_audio": "the same bytes of audio as another utterance, and another text",
}
LEAKS = {
    "text_in_training": "held out, but its text is read in training too",
    "speaker_in_training": "held out, but its speaker is heard in training too",
    "audio_in_training": "held out, but its very audio is in training too",
    "overlap_in_other_part": "held out, but a part of its audio is in training or another held-out part too",
}
BROKEN = {
    "missing_file": "its file is gone since the data were prepared",
    "changed_file": "its file has another size or time than when the data were prepared",
    "outside_file": "its bytes lie beyond the end of its file",
    "cannot_be_read": "its audio cannot be decoded any more",
    "in_two_parts": "an utterance of this name is in another part too",
    "audio_in_two_parts": "the very same piece of audio is in another part too",
}
MEANING = UNUSABLE | SOUND | TEXT | LEAKS | BROKEN
