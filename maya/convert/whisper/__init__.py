"""Whisper models: OpenAI's checkpoints, folders of Hugging Face and CTranslate2, and files of whisper.cpp."""
