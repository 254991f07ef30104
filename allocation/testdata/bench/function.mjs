// SPDX-License-Identifier: Apache-2.0

// The tutorial's function as what a site would otherwise run: Node's HTTP server
// in one process.
//
//	node function.mjs PORT quiet|log [CERTIFICATE KEY]
//
// With "log" it writes the function's lines to standard output: a greeting, the
// request, the response.

import { readFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';

const [port, logging, cert, key] = process.argv.slice(2);
const log = logging === 'log' ? console.log : () => {};

function allocate(body) {
  const data = body.trim() === '' ? null : JSON.parse(body);
  const regId = data?.deviceRuntimeContext?.registrationId;
  if (regId == null) {
    return 'Registration ID not provided for the device.';
  }
  const hubs = data?.linkedHubs;
  if (hubs == null) {
    return 'No hub group defined for the enrollment.';
  }
  const pick = (part) => hubs.findLast((hub) => hub.includes(part));
  if (regId.includes('-contoso-tstrsd-007')) {
    const iotHubHostName = pick('-toasters-');
    return iotHubHostName === undefined
      ? 'No toasters hub found for the enrollment.'
      : { iotHubHostName, initialTwin: { properties: { desired: { state: 'ready', darknessSetting: 'medium' } }, tags: { deviceType: 'toaster' } } };
  }
  if (regId.includes('-contoso-hpsd-088')) {
    const iotHubHostName = pick('-heatpumps-');
    return iotHubHostName === undefined
      ? 'No heat pumps hub found for the enrollment.'
      : { iotHubHostName, initialTwin: { properties: { desired: { state: 'on', temperatureSetting: '65' } }, tags: { deviceType: 'heatpump' } } };
  }
  return 'Unrecognized device registration.';
}

function serve(request, response) {
  log('JavaScript HTTP trigger function processed a request.');
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  request.on('end', () => {
    const body = Buffer.concat(chunks).toString();
    log('Request.Body:...');
    log(body);
    let answer;
    try {
      answer = allocate(body);
    } catch {
      response.writeHead(500).end();
      return;
    }
    const text = typeof answer === 'string' ? answer : JSON.stringify(answer);
    log('\nResponse');
    log(text);
    response.writeHead(text === answer ? 400 : 200, {
      'Content-Type': text === answer ? 'text/plain; charset=utf-8' : 'application/json; charset=utf-8',
      'Content-Length': Buffer.byteLength(text),
    });
    response.end(text);
  });
}

const server = cert
  ? https.createServer({ cert: readFileSync(cert), key: readFileSync(key) }, serve)
  : http.createServer(serve);
server.keepAliveTimeout = 60_000;
server.listen(Number(port), '127.0.0.1');
