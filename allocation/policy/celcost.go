// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// textCost counts what a step reads and writes of text. CEL counts it by itself
// where the types are known at load; members of a payload have theirs only at a
// request, and joining them would cost as little as adding two numbers.
type textCost struct{}

// How many bytes of text cost one step, and how many of a pattern, as in CEL's
// own count.
const (
	bytesPerStep        = 10
	patternBytesPerStep = 4
)

// CallCost is part of CEL's ActualCostEstimator; nil leaves a call to CEL's own
// count.
func (textCost) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	switch function {
	case "matches":
		if len(args) == 2 {
			return new((1 + textSize(args[0])/bytesPerStep) * (1 + textSize(args[1])/patternBytesPerStep))
		}
	case "_+_", "lowerAscii", "upperAscii", "trim", "split", "join", "replace":
		size := textSize(result)
		for _, arg := range args {
			size += textSize(arg)
		}
		return new(1 + size/bytesPerStep)
	}
	return nil
}

func textSize(value ref.Val) uint64 {
	switch v := value.(type) {
	case types.String:
		return uint64(len(v))
	case types.Bytes:
		return uint64(len(v))
	default:
		return 0
	}
}
