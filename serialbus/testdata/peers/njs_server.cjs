// SPDX-License-Identifier: Apache-2.0
//
// A Modbus RTU server on the package modbus-serial, which nobody here wrote. Usage: njs_server.cjs TTY BAUD. Units 1 and
// 17 are there, register n of 400 holds 100+n, and the extended objects do not fit into one reply.
const { ServerSerial } = require("modbus-serial");

const [, , tty, baud] = process.argv;
const units = new Set([1, 17]);
const registers = new Map();
for (let i = 0; i < 400; i++) registers.set(i, 100 + i);

// A handler that never settles is silence.
const never = new Promise(() => {});
const at = (unit, answer) => (units.has(unit) ? answer() : never);

const server = new ServerSerial(
  {
    getHoldingRegister: (address, unit) =>
      at(unit, () => registers.get(address) ?? Promise.reject({ modbusErrorCode: 2 })),
    setRegister: (address, value, unit) => at(unit, () => void registers.set(address, value)),
    readDeviceIdentification: (unit) =>
      at(unit, () => ({
        0: "Contoso",
        1: "HPSD-088",
        2: "12.0.2.5",
        0x80: `mainbuilding${unit}-contoso-hpsd-088`,
        0x81: "x".repeat(120),
        0x82: "y".repeat(120),
      })),
  },
  // Unit 255 answers for all of them, and hands each handler the unit that was asked.
  { port: tty, baudRate: Number(baud), parity: "even", unitID: 255, interval: 2 },
  {},
);
server.on("error", (error) => console.error(error));
server.on("initialized", () => console.log("listening"));
