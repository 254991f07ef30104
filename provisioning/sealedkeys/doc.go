// SPDX-License-Identifier: Apache-2.0

// Package sealedkeys brings device keys from headquarters to one gateway, so that the key of the enrollment group never
// leaves headquarters: a stolen gateway then costs one building.
//
//	on site        an [Identity] is made and stays there; a [Request] names its public half and the devices
//	headquarters   [Derive] makes the devices' keys from the group's, [Grant.Seal] encrypts them to that gateway
//	on site        [Open] decrypts them, with the identity and with nothing else
//
// A request is plain JSON and holds no secret, so it can be mailed; but whoever puts their own public half into it
// gets the keys, and so a person at headquarters must know that it is the gateway's. A grant is an age file
// (age-encryption.org/v1, one X25519 recipient, armored) with JSON inside, that the command age opens as well:
//
//	{"version":1,"site":"mainbuilding","created":"2026-11-22T10:00:00Z","idScope":"0ne00002193","devices":[
//	  {"registrationId":"…","primaryKey":"…base64…","secondaryKey":"…base64…","groupKeys":["1f2e3d4c","5b6a7988"]}]}
//
// Sealing keeps a grant from being read; it does not say who made it. A forged one brings keys that the service
// refuses, and installing it takes the rights of the gateway's administrator.
//
// It is a package of its own so that a program which imports provisioning does not link age.
package sealedkeys
