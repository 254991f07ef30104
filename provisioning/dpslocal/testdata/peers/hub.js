// SPDX-License-Identifier: Apache-2.0

// Usage: node hub.js HOST:PORT HUB ID KEY
// Opens the hub with Microsoft's device client, reads the twin, reports, sends a
// message, and prints each desired change; ends after the first change.
'use strict';

const { Client, Message } = require('azure-iot-device');
const { Mqtt } = require('azure-iot-device-mqtt');

const [address, hub, id, key] = process.argv.slice(2);
const client = Client.fromConnectionString(
  `HostName=${hub};DeviceId=${id};SharedAccessKey=${key};GatewayHostName=${address}`, Mqtt);
const say = (what) => console.log(JSON.stringify(what));

async function main() {
  await client.open();
  const twin = await client.getTwin();
  say({ desired: twin.properties.desired });
  await new Promise((resolve, reject) => {
    twin.properties.reported.update({ state: 'ready', nested: { a: 1 } }, (err) => (err ? reject(err) : resolve()));
  });
  await client.sendEvent(new Message('{"telemetry":1}'));
  const start = twin.properties.desired.$version;
  const changed = new Promise((resolve) => {
    twin.on('properties.desired', (delta) => {
      if (delta.$version > start) {
        resolve(delta);
      }
    });
  });
  say({ reported: true });
  say({ delta: await changed });
  await client.close();
}

main().then(() => process.exit(0), (err) => {
  say({ error: err.name, message: err.message });
  process.exit(1);
});
