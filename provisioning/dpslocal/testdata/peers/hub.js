// SPDX-License-Identifier: Apache-2.0

// Usage: node hub.js mqtt|mqtt-ws HOST:PORT HUB ID CREDENTIAL
// Opens the hub with Microsoft's device client, reads the twin, reports, sends a
// message, and prints each desired change; ends after the first change.
// CREDENTIAL is a key, or CERTFILE,KEYFILE.
'use strict';

const fs = require('fs');
const { Client, Message } = require('azure-iot-device');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { redirect } = require('./redirect.js');

const [kind, address, hub, id, credential] = process.argv.slice(2);
const [host, port] = address.split(':');
const withCertificate = credential.includes(',');
const gateway = kind === 'mqtt' ? address : host;
// With a certificate this client has no gateways.
const proof = withCertificate ? 'x509=true' : `SharedAccessKey=${credential};GatewayHostName=${gateway}`;
redirect(Number(port));
const client = Client.fromConnectionString(
  `HostName=${hub};DeviceId=${id};${proof}`, kind === 'mqtt' ? Mqtt : MqttWs);
const say = (what) => console.log(JSON.stringify(what));

async function main() {
  if (withCertificate) {
    const [cert, key] = credential.split(',').map((file) => fs.readFileSync(file, 'utf8'));
    await client.setOptions({ cert, key });
  }
  await client.open();
  const twin = await client.getTwin();
  say({ desired: twin.properties.desired });
  // Subscribing is done in the background; the answer to the report comes after it.
  const start = twin.properties.desired.$version;
  const changed = new Promise((resolve) => {
    twin.on('properties.desired', (delta) => {
      if (delta.$version > start) {
        resolve(delta);
      }
    });
  });
  await new Promise((resolve, reject) => {
    twin.properties.reported.update({ state: 'ready', nested: { a: 1 } }, (err) => (err ? reject(err) : resolve()));
  });
  await client.sendEvent(new Message('{"telemetry":1}'));
  say({ reported: true });
  say({ delta: await changed });
  await client.close();
}

main().then(() => process.exit(0), (err) => {
  say({ error: err.name, message: err.message });
  process.exit(1);
});
