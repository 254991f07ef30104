// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// maxText bounds the text that a function of ours takes or gives, in bytes. The
// interpreter counts a function's cost when it is done, which is too late for
// one that can make a gigabyte of text out of a request.
const maxText = 64 << 10

// textFunctions are what names are taken apart with, spelled as CEL's extension
// "strings" has them, beside contains, startsWith, endsWith, matches and size.
func textFunctions() []cel.EnvOption {
	text, list := cel.StringType, cel.ListType(cel.StringType)
	return []cel.EnvOption{
		cel.Function("lowerAscii", cel.MemberOverload("string_lower_ascii", []*cel.Type{text}, text, cel.UnaryBinding(onText(lowerASCII)))),
		cel.Function("upperAscii", cel.MemberOverload("string_upper_ascii", []*cel.Type{text}, text, cel.UnaryBinding(onText(upperASCII)))),
		cel.Function("trim", cel.MemberOverload("string_trim", []*cel.Type{text}, text, cel.UnaryBinding(onText(strings.TrimSpace)))),
		cel.Function("split", cel.MemberOverload("string_split_string", []*cel.Type{text, text}, list, cel.BinaryBinding(split))),
		cel.Function("join", cel.MemberOverload("list_join_string", []*cel.Type{list, text}, text, cel.BinaryBinding(join))),
		cel.Function("replace", cel.MemberOverload("string_replace_string_string", []*cel.Type{text, text, text}, text, cel.FunctionBinding(replace))),
	}
}

// onText makes a function of text out of one of Go's.
func onText(of func(string) string) func(ref.Val) ref.Val {
	return func(value ref.Val) ref.Val {
		text, ok := value.(types.String)
		switch {
		case !ok:
			return types.MaybeNoSuchOverloadErr(value)
		case len(text) > maxText:
			return tooLong()
		}
		return types.String(of(string(text)))
	}
}

func tooLong() ref.Val { return types.NewErr("a text is longer than %d KiB", maxText>>10) }

// lowerASCII leaves letters outside ASCII alone: registration IDs and host names
// have none.
func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

func upperASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' {
			r -= 'a' - 'A'
		}
		return r
	}, s)
}

func split(value, separator ref.Val) ref.Val {
	text, isText := value.(types.String)
	by, isSeparator := separator.(types.String)
	switch {
	case !isText || !isSeparator:
		return types.MaybeNoSuchOverloadErr(value)
	case len(text) > maxText:
		return tooLong()
	}
	return types.NewStringList(types.DefaultTypeAdapter, strings.Split(string(text), string(by)))
}

func join(value, separator ref.Val) ref.Val {
	list, isList := value.(traits.Lister)
	by, isSeparator := separator.(types.String)
	if !isList || !isSeparator {
		return types.MaybeNoSuchOverloadErr(value)
	}
	var joined strings.Builder
	first := true
	for it := list.Iterator(); it.HasNext() == types.True; first = false {
		text, ok := it.Next().(types.String)
		if !ok {
			return types.MaybeNoSuchOverloadErr(value)
		}
		if !first {
			joined.WriteString(string(by))
		}
		joined.WriteString(string(text))
		if joined.Len() > maxText {
			return tooLong()
		}
	}
	return types.String(joined.String())
}

func replace(args ...ref.Val) ref.Val {
	text, isText := args[0].(types.String)
	old, isOld := args[1].(types.String)
	with, isNew := args[2].(types.String)
	if !isText || !isOld || !isNew {
		return types.MaybeNoSuchOverloadErr(args[0])
	}
	found := strings.Count(string(text), string(old))
	if len(text) > maxText || len(text)+found*len(with) > maxText {
		return tooLong()
	}
	return types.String(strings.ReplaceAll(string(text), string(old), string(with)))
}
