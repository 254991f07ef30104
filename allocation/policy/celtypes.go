// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/contoso/gatewayd/allocation"
)

// members are the members of an object and their types.
type members map[string]*cel.Type

// The request as expressions see it: every object that the documents name, with
// its members spelled as on the wire (dps-protocol 12.1, 14, 15, 17.5), so that a
// misspelt one is found when the policy is loaded. What a device or an operator
// fills freely is dyn.
var requestTypes = map[string]members{
	"AllocationRequest": {
		"individualEnrollment": cel.ObjectType("IndividualEnrollment"),
		"enrollmentGroup":      cel.ObjectType("EnrollmentGroup"),
		"deviceRuntimeContext": cel.ObjectType("DeviceRuntimeContext"),
		"linkedHubs":           cel.ListType(cel.StringType),
	},
	"DeviceRuntimeContext": {
		"registrationId":        cel.StringType,
		"currentIotHubHostName": cel.StringType,
		"currentDeviceId":       cel.StringType,
		"x509":                  cel.ObjectType("X509DeviceAttestation"),
		"symmetricKey":          cel.DynType,
		"tpm":                   cel.ObjectType("TpmAttestation"),
		"payload":               cel.DynType,
	},
	"X509DeviceAttestation": {
		"clientCertificates":     cel.ObjectType("X509Certificates"),
		"signingCertificates":    cel.ObjectType("X509Certificates"),
		"caReferences":           cel.DynType,
		"certificateInfo":        cel.ObjectType("X509CertificateInfo"),
		"signingCertificateInfo": cel.ObjectType("X509CertificateInfo"),
		"enrollmentGroupId":      cel.StringType,
	},
	"X509Certificates": {
		"primary":   cel.ObjectType("X509CertificateWithInfo"),
		"secondary": cel.ObjectType("X509CertificateWithInfo"),
	},
	"X509CertificateWithInfo": {
		"certificate": cel.StringType,
		"info":        cel.ObjectType("X509CertificateInfo"),
	},
	"X509CertificateInfo": {
		"subjectName":      cel.StringType,
		"sha1Thumbprint":   cel.StringType,
		"sha256Thumbprint": cel.StringType,
		"issuerName":       cel.StringType,
		"notBeforeUtc":     cel.StringType,
		"notAfterUtc":      cel.StringType,
		"serialNumber":     cel.StringType,
		"version":          cel.IntType,
	},
	"TpmAttestation": {
		"endorsementKey": cel.StringType,
		"storageRootKey": cel.StringType,
	},
	"AttestationMechanism": {
		"type":         cel.StringType,
		"tpm":          cel.ObjectType("TpmAttestation"),
		"x509":         cel.ObjectType("X509DeviceAttestation"),
		"symmetricKey": cel.DynType,
	},
	"DeviceCapabilities": {
		"iotEdge": cel.BoolType,
	},
	"ReprovisionPolicy": {
		"updateHubAssignment": cel.BoolType,
		"migrateDeviceData":   cel.BoolType,
	},
	"CustomAllocationDefinition": {
		"webhookUrl": cel.StringType,
		"apiVersion": cel.StringType,
	},
	"IndividualEnrollment": withEnrollment(members{
		"registrationId":            cel.StringType,
		"deviceId":                  cel.StringType,
		"registrationState":         cel.DynType,
		"optionalDeviceInformation": cel.DynType,
	}),
	"EnrollmentGroup": withEnrollment(members{
		"enrollmentGroupId": cel.StringType,
	}),
}

// withEnrollment adds what entries of both kinds have.
func withEnrollment(own members) members {
	for name, t := range (members{
		"attestation":                cel.ObjectType("AttestationMechanism"),
		"capabilities":               cel.ObjectType("DeviceCapabilities"),
		"initialTwin":                cel.DynType,
		"etag":                       cel.StringType,
		"createdDateTimeUtc":         cel.StringType,
		"lastUpdatedDateTimeUtc":     cel.StringType,
		"provisioningStatus":         cel.StringType,
		"reprovisionPolicy":          cel.ObjectType("ReprovisionPolicy"),
		"allocationPolicy":           cel.StringType,
		"iotHubs":                    cel.ListType(cel.StringType),
		"iotHubHostName":             cel.StringType,
		"customAllocationDefinition": cel.ObjectType("CustomAllocationDefinition"),
		"credentialPolicyName":       cel.StringType,
	}) {
		own[name] = t
	}
	return own
}

// deviceTypeName is the type of a directory's row.
const deviceTypeName = "DeviceRow"

// deviceMembers are the columns of the directory. A number may be whole or not,
// which only the row tells.
func deviceMembers(columns map[string]allocation.ColumnType) members {
	types := members{}
	for column, holds := range columns {
		types[column] = map[allocation.ColumnType]*cel.Type{
			allocation.ColumnText: cel.StringType, allocation.ColumnNumber: cel.DynType, allocation.ColumnBool: cel.BoolType,
		}[holds]
	}
	return types
}

// provider tells the checker what objects have which members. It remembers in
// which object a member was not found, for a better message.
type provider struct {
	*types.Registry
	objects map[string]members
	missing map[string]string // member → object
}

func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if _, found := p.objects[name]; found {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	if object, found := p.objects[name]; found {
		return memberNames(object), true
	}
	return p.Registry.FindStructFieldNames(name)
}

// FindStructFieldType gives a member's type without a way to read it: values are
// JSON objects, in which the interpreter finds the member by its name, and where
// an absent one is an error.
func (p *provider) FindStructFieldType(object, member string) (*types.FieldType, bool) {
	if of, found := p.objects[object]; found {
		if t, found := of[member]; found {
			return &types.FieldType{Type: t}, true
		}
		p.missing[member] = object
		return nil, false
	}
	return p.Registry.FindStructFieldType(object, member)
}

func memberNames(of members) []string {
	var names []string
	for name := range of {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// adapter gives JSON values to the interpreter.
type adapter struct{ types.Adapter }

func (a adapter) NativeToValue(value any) ref.Val {
	switch v := value.(type) {
	case json.Number:
		return a.Adapter.NativeToValue(number(v))
	case map[string]any:
		return sortedMap{types.NewStringInterfaceMap(a, v)}
	case []any:
		return types.NewDynamicList(a, v)
	default:
		return a.Adapter.NativeToValue(value)
	}
}

// sortedMap is a map whose members come in the order of their names. The
// interpreter's own maps come in Go's order, which is another one each time: the
// same request would get several answers.
type sortedMap struct{ traits.Mapper }

func (m sortedMap) keys() []ref.Val {
	var keys []ref.Val
	for it := m.Mapper.Iterator(); it.HasNext() == types.True; {
		keys = append(keys, it.Next())
	}
	slices.SortFunc(keys, compareKeys)
	return keys
}

// compareKeys orders keys by type, then by value; only text, numbers and
// booleans can be keys.
func compareKeys(a, b ref.Val) int {
	if a.Type() != b.Type() {
		return compareText(a.Type().TypeName(), b.Type().TypeName())
	}
	if comparer, ok := a.(traits.Comparer); ok {
		if order, ok := comparer.Compare(b).(types.Int); ok {
			return int(order)
		}
	}
	return 0
}

func compareText(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

// Iterator is part of traits.Mapper.
func (m sortedMap) Iterator() traits.Iterator {
	return types.NewRefValList(types.DefaultTypeAdapter, m.keys()).Iterator()
}

// Fold is part of traits.Foldable, by which macros go through a map.
func (m sortedMap) Fold(f traits.Folder) {
	for _, key := range m.keys() {
		value, _ := m.Find(key)
		if !f.FoldEntry(key, value) {
			return
		}
	}
}

// variables gives what expressions read. Members of the service's documents that
// are null are left out, as absent ones are; a device's payload stays as it is.
func (s *subject) readVariables() map[string]any {
	return s.variables.get(func() map[string]any {
		device := map[string]any{}
		c := s.request.DeviceRuntimeContext
		if c.RegistrationID != nil {
			device["registrationId"] = *c.RegistrationID
		}
		for name, text := range map[string]string{"currentIotHubHostName": c.CurrentIoTHubHostName, "currentDeviceId": c.CurrentDeviceID} {
			if text != "" {
				device[name] = text
			}
		}
		for name, raw := range map[string]json.RawMessage{"x509": c.X509, "symmetricKey": c.SymmetricKey, "tpm": c.TPM} {
			if value := decodeJSON(raw); value != nil {
				device[name] = withoutNulls(value, requestTypes["DeviceRuntimeContext"][name])
			}
		}
		payload := s.readPayload()
		if payload != nil {
			device["payload"] = payload
		}
		request := map[string]any{"deviceRuntimeContext": device}
		if s.request.LinkedHubs != nil {
			request["linkedHubs"] = s.request.LinkedHubs
		}
		if group := s.readEnrollmentGroup(); group != nil {
			request["enrollmentGroup"] = withoutNulls(group, cel.ObjectType("EnrollmentGroup"))
		}
		if individual := s.readIndividual(); individual != nil {
			request["individualEnrollment"] = withoutNulls(individual, cel.ObjectType("IndividualEnrollment"))
		}
		if payload == nil {
			payload = map[string]any{}
		}
		row := map[string]any{}
		for column, value := range s.device {
			if value != nil {
				row[column] = value
			}
		}
		return map[string]any{variableRequest: request, variableDevice: row, variablePayload: payload}
	})
}

// withoutNulls gives an object of a declared type without its members that are
// null. What is not declared stays.
func withoutNulls(value any, declared *cel.Type) any {
	object, isObject := value.(map[string]any)
	of, known := requestTypes[declared.TypeName()]
	if !isObject || !known {
		return value
	}
	kept := make(map[string]any, len(object))
	for name, member := range object {
		if member == nil {
			continue
		}
		if t := of[name]; t != nil {
			member = withoutNulls(member, t)
		}
		kept[name] = member
	}
	return kept
}
