"""The faults of the storage and of the network that the tests and the campaign inject."""

from tools.s3_server import Fault

UPLOAD_FAULTS = {
    "connection cut in an upload": Fault(action="cut upload", when=r"PUT .*partNumber=2", times=3),
    "connection cut in an answer": Fault(
        action="cut answer", when="GET .*list-type|GET .*manifests", times=3
    ),
    "upload corrupted": Fault(action="corrupt upload", when=r"PUT .*partNumber=2", times=2),
    "small upload corrupted": Fault(action="corrupt upload", when="PUT .*metrics.jsonl", times=2),
    "manifest corrupted": Fault(action="corrupt upload", when="PUT .*manifests", times=1),
    "500": Fault(action="500", when=".", times=12),
    "500 after the parts were joined": Fault(action="500 after", when=r"POST .*uploadId", times=1),
    "500 after an upload was begun": Fault(action="500 after", when=r"POST .*uploads", times=1),
    "503 SlowDown": Fault(action="SlowDown", when="PUT", times=6),
    "slow": Fault(action="slow", when=r"PUT .*partNumber", times=9, rate=4e6),
    "no answer": Fault(action="hang", when=r"PUT .*partNumber=1", times=1),
    "connection refused": Fault(action="refuse", when=".", times=6),
}

DOWNLOAD_FAULTS = {
    "connection cut in an answer": Fault(action="cut answer", when="GET .*files/checkpoints", times=3),
    "answer corrupted": Fault(action="corrupt answer", when="GET .*files/checkpoints", times=1),
    "500": Fault(action="500", when="GET", times=4),
    "503 SlowDown": Fault(action="SlowDown", when="GET", times=4),
    "slow": Fault(action="slow", when="GET .*files/checkpoints", times=1, rate=8e6),
    "connection refused": Fault(action="refuse", when=".", times=4),
}
