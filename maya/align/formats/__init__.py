"""Files that hold transcripts: text, JSON, subtitles, CTM, TextGrid, tables.

`FORMATS` is the table of them. A format is a function from a transcript to the text of a file.
"""
