# SPDX-License-Identifier: Apache-2.0
#
# Reads a simulated heat pump with a Modbus RTU client that nobody here wrote (pymodbus 3.0) and prints what it saw as
# JSON. Usage: pymodbus_client.py TTY BAUD UNIT.
import json
import sys

from pymodbus.client import ModbusSerialClient
from pymodbus.mei_message import ReadDeviceInformationRequest
from pymodbus.other_message import ReportSlaveIdRequest

tty, baud, unit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = ModbusSerialClient(port=tty, baudrate=baud, parity="N", timeout=3)
if not client.connect():
    sys.exit("cannot open " + tty)


def objects(code, first):
    reply = client.execute(ReadDeviceInformationRequest(read_code=code, object_id=first, unit=unit))
    if reply.isError():
        sys.exit("identification %d: %s" % (code, reply))
    return {str(key): value.decode() for key, value in reply.information.items()}


seen = {"basic": objects(1, 0), "extended": objects(3, 0x80), "one": objects(4, 0x80)}
seen["registers"] = client.read_holding_registers(100, 2, slave=unit).registers
seen["write refused"] = client.write_registers(101, [2000], slave=unit).isError()
seen["written"] = not client.write_registers(100, [1, 650], slave=unit).isError()
# The last byte of the server ID is the run indicator.
seen["server"] = client.execute(ReportSlaveIdRequest(unit=unit)).identifier[:-1].decode()
print(json.dumps(seen))
