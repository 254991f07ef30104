# SPDX-License-Identifier: Apache-2.0
#
# Decodes Modbus RTU replies by pymodbus (3.0), which nobody here wrote: one frame in hex a line on standard input, one
# JSON object a line on standard output, {"crc": false} for a wrong checksum, {"error": …} for what it cannot decode.
import json
import logging
import sys

from pymodbus.factory import ClientDecoder
from pymodbus.mei_message import ReadDeviceInformationResponse
from pymodbus.other_message import ReportSlaveIdResponse
from pymodbus.pdu import ExceptionResponse
from pymodbus.register_read_message import ReadHoldingRegistersResponse
from pymodbus.register_write_message import WriteMultipleRegistersResponse
from pymodbus.utilities import checkCRC

logging.disable(logging.CRITICAL)
decoder = ClientDecoder()


def text(value):
    if isinstance(value, list):  # an object that is there twice
        return [text(one) for one in value]
    return value.hex() if isinstance(value, bytes) else value


def decode(frame):
    if len(frame) < 4 or not checkCRC(frame[:-2], frame[-2] << 8 | frame[-1]):
        return {"crc": False}
    reply = decoder.decode(frame[1:-2])
    if isinstance(reply, ExceptionResponse):
        return {"exception": reply.exception_code}
    if isinstance(reply, ReadHoldingRegistersResponse):
        return {"registers": reply.registers}
    if isinstance(reply, WriteMultipleRegistersResponse):
        return {"address": reply.address, "count": reply.count}
    if isinstance(reply, ReportSlaveIdResponse):
        return {"server": text(reply.identifier)}
    if isinstance(reply, ReadDeviceInformationResponse):
        return {
            "conformity": reply.conformity,
            "more": int(reply.more_follows) == 0xFF,
            "next": reply.next_object_id,
            "objects": {str(key): text(value) for key, value in reply.information.items()},
        }
    return {"error": type(reply).__name__}


for line in sys.stdin:
    try:
        answer = decode(bytes.fromhex(line))
    except Exception as error:  # whatever it stumbles over is its answer
        answer = {"error": repr(error)}
    print(json.dumps(answer))
