# SPDX-License-Identifier: Apache-2.0
"""Usage: pyvisa_client.py PORT BAUD: asks an instrument who it is, and sets it, with python3-pyvisa and python3-pyvisa-py."""
import json
import sys

import pyvisa

instrument = pyvisa.ResourceManager("@py").open_resource(
    f"ASRL{sys.argv[1]}::INSTR", baud_rate=int(sys.argv[2]), read_termination="\r\n", write_termination="\n"
)
instrument.timeout = 20000
answers = {"idn": instrument.query("*IDN?"), "before": instrument.query("TOAST:DARK?")}
instrument.write("TOAST:DARK medium")
answers["after"] = instrument.query("TOAST:DARK?")
print(json.dumps(answers))
