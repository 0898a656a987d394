"""The one exception that means "the user can mend this"."""


class MayaError(Exception):
    """One clear sentence: which file, utterance or option, what is wrong with it, and what to do.

    The command line prints the sentence alone and exits with status 1; any other exception is a bug
    and keeps its traceback.
    """
