"""The exception for errors that the user can fix."""


class MayaError(Exception):
    """One clear sentence: the file, utterance or option, the problem, and what to do.

    The command line prints the sentence alone and exits with status 1. Any other exception is a bug and keeps
    its traceback.
    """
