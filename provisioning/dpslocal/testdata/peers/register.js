// SPDX-License-Identifier: Apache-2.0

// Usage: node register.js mqtt|mqtt-ws|http HOST:PORT SCOPE ID CREDENTIAL PAYLOAD
// Registers with Microsoft's client and prints what it hands out, one JSON line.
// CREDENTIAL is a key, or CERTFILE,KEYFILE.
'use strict';

const fs = require('fs');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');
const { X509Security } = require('azure-iot-security-x509');
const { redirect } = require('./redirect.js');

const [kind, address, scope, id, credential, payload] = process.argv.slice(2);
const [name, port] = address.split(':');
let host = name;
let transport;
if (kind === 'mqtt') {
  const { Mqtt } = require('azure-iot-provisioning-device-mqtt');
  transport = new Mqtt();
  host = address;
} else if (kind === 'mqtt-ws') {
  const { MqttWs } = require('azure-iot-provisioning-device-mqtt');
  transport = new MqttWs();
} else {
  const { Http } = require('azure-iot-provisioning-device-http');
  transport = new Http();
}
redirect(Number(port));

let security;
if (credential.includes(',')) {
  const [cert, key] = credential.split(',').map((file) => fs.readFileSync(file, 'utf8'));
  security = new X509Security(id, { cert, key });
} else {
  security = new SymmetricKeySecurityClient(id, credential);
}
const client = ProvisioningDeviceClient.create(host, scope, transport, security);
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
