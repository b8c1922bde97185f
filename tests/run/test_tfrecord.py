"""Records of event files against TensorBoard's own."""

import io
import random

import pytest

from rlrun.run.tfrecord import crc32c, record


def test_the_checksum_is_that_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("length", [4, 5, 8, 508, 509, 511, 512, 513, 515, 1024, 1027, 5000])
def test_records_are_those_that_tensorboard_writes(length):
    from tensorboard.summary.writer.record_writer import RecordWriter

    data = random.Random(length).randbytes(length)
    file = io.BytesIO()
    RecordWriter(file).write(data)
    assert record(data) == file.getvalue()
