// SPDX-License-Identifier: Apache-2.0

// Usage: node register.js mqtt|http HOST:PORT SCOPE ID KEY PAYLOAD
// Registers with Microsoft's client and prints what it hands out, one JSON line.
'use strict';

const https = require('https');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');

const [kind, address, scope, id, key, payload] = process.argv.slice(2);
let host = address;
let transport;
if (kind === 'mqtt') {
  const { Mqtt } = require('azure-iot-provisioning-device-mqtt');
  transport = new Mqtt();
} else {
  // This transport takes a host without a port; the agent supplies it.
  const { Http } = require('azure-iot-provisioning-device-http');
  transport = new Http();
  const agent = new https.Agent();
  agent.defaultPort = Number(address.split(':')[1]);
  host = address.split(':')[0];
  const request = https.request;
  https.request = (options, callback) => request({ ...options, agent }, callback);
}
const client = ProvisioningDeviceClient.create(host, scope, transport, new SymmetricKeySecurityClient(id, key));
if (payload) {
  client.setProvisioningPayload(JSON.parse(payload));
}
client.register((err, result) => {
  if (err) {
    console.log(JSON.stringify({ error: err.name, message: err.message }));
  } else {
    console.log(JSON.stringify(result));
  }
  process.exit(0);
});
