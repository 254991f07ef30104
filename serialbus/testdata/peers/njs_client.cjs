// SPDX-License-Identifier: Apache-2.0
// Usage: node njs_client.cjs PORT BAUD UNIT: asks a unit everything the npm package modbus-serial can, as JSON.
const Modbus = require("modbus-serial");

(async () => {
  const client = new Modbus();
  await client.connectRTUBuffered(process.argv[2], { baudRate: +process.argv[3] });
  client.setID(+process.argv[4]);
  client.setTimeout(5000);
  const out = {};
  const failure = async (call) => call.then(() => "none", (e) => e.modbusCode ?? e.message);
  out.registers = (await client.readHoldingRegisters(100, 2)).data;
  await client.writeRegisters(100, [1, 650]);
  out.written = (await client.readHoldingRegisters(100, 2)).data;
  out.refused = await failure(client.writeRegisters(101, [901]));
  out.missing = await failure(client.readHoldingRegisters(5000, 1));
  const objects = async (code, object) => Object.values((await client.readDeviceIdentification(code, object)).data);
  out.basic = await objects(1, 0);
  out.extended = (await objects(3, 0x80)).map((text) => text.length);
  out.one = await objects(4, 0x80);
  console.log(JSON.stringify(out));
  client.close(() => process.exit(0));
})().catch((e) => {
  console.error(e);
  process.exit(1);
});
