# SPDX-License-Identifier: Apache-2.0
#
# A Modbus RTU server that nobody here wrote (pymodbus 3.0), with the identity of a heat pump at units 1 and 17.
# Usage: pymodbus_server.py TTY BAUD. Holding register n holds 100+n. Parity stays "N": a pseudo-terminal has none,
# and pyserial fails on it when the parity is all that changes.
import asyncio
import sys

from pymodbus.datastore import ModbusSequentialDataBlock, ModbusServerContext, ModbusSlaveContext
from pymodbus.device import ModbusDeviceIdentification
from pymodbus.server import StartAsyncSerialServer
from pymodbus.transaction import ModbusRtuFramer

identity = ModbusDeviceIdentification(
    info_name={
        "VendorName": "Contoso",
        "ProductCode": "HPSD-088",
        "MajorMinorRevision": "12.0.2.5",
        "ProductName": "Heat pump",
    }
)
identity[0x80] = "mainbuilding167-contoso-hpsd-088"


def block():
    return ModbusSequentialDataBlock(1, list(range(100, 400)))


def unit():
    return ModbusSlaveContext(di=block(), co=block(), hr=block(), ir=block())


async def main():
    await StartAsyncSerialServer(
        context=ModbusServerContext(slaves={1: unit(), 17: unit()}, single=False),
        identity=identity,
        port=sys.argv[1],
        baudrate=int(sys.argv[2]),
        framer=ModbusRtuFramer,
        parity="N",
        timeout=0.005,
        ignore_missing_slaves=True,
    )


asyncio.run(main())
