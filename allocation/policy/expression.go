// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// Bounds of an expression. Cost is CEL's measure of work: about one for each
// step and for each ten bytes of text that a step reads. Together they end what
// one request may make a policy think.
const (
	maxExpression = 4 << 10 // bytes
	maxNodes      = 2_000   // of an expression, its macros written out
	maxLoops      = 3       // macros inside each other
	maxCost       = 100_000 // of one expression, and of all that one decision asks
	maxThinking   = time.Second
)

// The variables of expressions.
const (
	variableRequest = "request"
	variableDevice  = "device"
	variablePayload = "payload"
)

// resultKind is what an expression must give.
type resultKind int

const (
	wantBool   resultKind = iota // a condition
	wantText                     // a sentence
	wantHub                      // a host name, or an empty optional
	wantObject                   // an object of JSON
	wantValue                    // any JSON
)

// expression is a compiled CEL expression.
type expression struct {
	at      span
	source  string
	offsets []int // where the file has each byte of source
	program cel.Program
	parsed  *ast.AST
}

// compiler compiles expressions against what this policy may read.
type compiler struct {
	env      *cel.Env
	provider *provider
}

func (c *checker) newCompiler() (*compiler, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	objects := map[string]members{deviceTypeName: deviceMembers(c.use.Columns)}
	for name, object := range requestTypes {
		objects[name] = object
	}
	own := &provider{Registry: registry, objects: objects, missing: map[string]string{}}
	options := []cel.EnvOption{
		cel.CustomTypeProvider(own),
		cel.CustomTypeAdapter(adapter{registry}),
		cel.StdLib(),
		cel.OptionalTypes(),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.EnableMacroCallTracking(),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ExpressionNodeLimit(maxNodes),
		cel.RegexProgramSizeLimit(maxInstructions),
		cel.ASTValidators(cel.ValidateRegexLiterals(), cel.ValidateDurationLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateComprehensionNestingLimit(maxLoops)),
		cel.Variable(variableRequest, cel.ObjectType("AllocationRequest")),
		cel.Variable(variablePayload, cel.DynType),
	}
	if c.use.Used {
		options = append(options, cel.Variable(variableDevice, cel.ObjectType(deviceTypeName)))
	}
	env, err := cel.NewCustomEnv(append(options, textFunctions()...)...)
	return &compiler{env: env, provider: own}, err
}

// expression compiles the text of a node.
func (c *checker) expression(n *node, want resultKind) *expression {
	x := &expression{at: n.at, source: n.text}
	if !c.isText(n, "an expression") {
		return x
	}
	x.offsets = contentOffsets(c.source[n.at.start:n.at.end], n.at.start)
	if len(n.text) > maxExpression {
		c.fail(n.at, "the expression is longer than %d bytes", maxExpression)
		return x
	}
	if c.compiler == nil {
		made, err := c.newCompiler()
		if err != nil {
			c.fail(n.at, "the expression language does not start: %v", err)
			return x
		}
		c.compiler = made
	}
	clear(c.compiler.provider.missing)
	checked, issues := c.compiler.env.Compile(n.text)
	if issues.Err() != nil {
		c.failIssues(x, issues)
		return x
	}
	if message := wrongResult(checked.OutputType(), want); message != "" {
		c.fail(n.at, "%s", message)
		return x
	}
	program, err := c.compiler.env.Program(checked,
		cel.EvalOptions(cel.OptOptimize),
		cel.CostTracking(textCost{}),
		cel.CostLimit(maxCost),
		cel.InterruptCheckFrequency(100),
		cel.CustomDecoratorV2(sortMaps),
	)
	if err != nil {
		c.fail(n.at, "%v", err)
		return x
	}
	x.program, x.parsed = program, checked.NativeRep()
	return x
}

// sortMaps gives the maps that an expression writes down an order.
func sortMaps(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	if constructor, ok := i.(interpreter.InterpretableConstructor); ok && constructor.Type() == types.MapType {
		return sortingConstructor{i}, nil
	}
	return i, nil
}

type sortingConstructor struct{ interpreter.InterpretableV2 }

func (s sortingConstructor) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	result := s.InterpretableV2.Exec(frame)
	if made, ok := result.(traits.Mapper); ok {
		return sortedMap{made}
	}
	return result
}

// failIssues notes what the compiler found, at its place in the file.
func (c *checker) failIssues(x *expression, issues *cel.Issues) {
	for i, issue := range issues.Errors() {
		if i == 5 {
			break // what follows the first mistakes is rarely one of its own
		}
		c.fail(x.place(issue), "%s", c.words(issue.Message))
	}
}

// place gives where the file has what an issue is about. A member that is not
// defined is found behind the place that the compiler tells, which for a macro is
// its opening bracket.
func (x *expression) place(issue *cel.Error) span {
	at := x.byteOffset(issue.Location.Line(), issue.Location.Column())
	length := 1
	if undefined := undefinedField.FindStringSubmatch(issue.Message); undefined != nil {
		if behind := strings.Index(x.source[at:], undefined[1]); behind >= 0 {
			at, length = at+behind, len(undefined[1])
		}
	}
	start := x.fileOffset(at)
	return span{start, start + length}
}

// fileOffset gives where the file has a byte of the expression.
func (x *expression) fileOffset(at int) int {
	if at >= len(x.offsets) {
		return x.at.end - 1
	}
	return x.offsets[at]
}

// byteOffset gives the place in the expression of a line, counted from 1, and a
// column, counted from 0 in characters.
func (x *expression) byteOffset(line, column int) int {
	byteOffset := 0
	for range line - 1 {
		newline := strings.IndexByte(x.source[byteOffset:], '\n')
		if newline < 0 {
			break
		}
		byteOffset += newline + 1
	}
	for range column {
		_, size := utf8.DecodeRuneInString(x.source[byteOffset:])
		byteOffset += size
	}
	return byteOffset
}

var (
	undefinedField = regexp.MustCompile(`^undefined field '([^']*)'`)
	undeclared     = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	noOverload     = regexp.MustCompile(`^found no matching overload for '([^']*)' applied to '(.*)'$`)
	expecting      = regexp.MustCompile(` expecting (\{.*\}|.*)$`)
)

// words says a compiler's message in the words of this language.
func (c *checker) words(message string) string {
	switch {
	case undefinedField.MatchString(message):
		name := undefinedField.FindStringSubmatch(message)[1]
		where := c.compiler.provider.missing[name]
		if of, known := c.compiler.provider.objects[where]; known {
			if where == deviceTypeName {
				where = "columns of [directory]"
			}
			return fmt.Sprintf("there is no %q in %s%s", name, where, orKnown(name, memberNames(of)))
		}
		return fmt.Sprintf("there is no %q here", name)
	case undeclared.MatchString(message):
		return c.undeclared(undeclared.FindStringSubmatch(message)[1])
	case noOverload.MatchString(message):
		parts := noOverload.FindStringSubmatch(message)
		return fmt.Sprintf("%s does not take %s", operatorName(parts[1]), strings.ReplaceAll(parts[2], "DeviceRow", "the row"))
	default:
		syntax, isSyntax := strings.CutPrefix(message, "Syntax error: ")
		if !isSyntax {
			return message
		}
		syntax = strings.ReplaceAll(expecting.ReplaceAllString(syntax, ""), "mismatched input '<EOF>'", "it ends too early")
		return "the expression cannot be read: " + syntax
	}
}

// undeclared words the use of a name that nothing has.
func (c *checker) undeclared(name string) string {
	known := []string{variableRequest, variablePayload}
	if c.use.Used {
		known = append(known, variableDevice)
	} else if name == variableDevice {
		return noDirectory
	}
	functions := strings.Fields("has size contains startsWith endsWith matches lowerAscii upperAscii trim split join replace orValue hasValue exists all filter map string int double")
	if near := didYouMean(name, append(functions, known...)); near != "" {
		return fmt.Sprintf("there is no %q%s", name, near)
	}
	return fmt.Sprintf("there is no %q; an expression reads %s", name, listWords(known, "and"))
}

// operatorName gives the sign of an operator for CEL's inner name of it.
func operatorName(function string) string {
	if sign := strings.Trim(function, "_@"); sign != function && sign != "" {
		return sign
	}
	return function
}

// wrongResult says what is wrong with the type of an expression, or nothing.
func wrongResult(got *cel.Type, want resultKind) string {
	kind := got.Kind()
	isOptional := got.Kind() == types.OpaqueKind && got.TypeName() == "optional_type"
	name := cel.FormatCELType(got)
	switch want {
	case wantBool:
		if kind == types.DynKind {
			return "whether the condition is true or false is only known for a request; compare the value, as in … == true"
		}
		if kind != types.BoolKind {
			return fmt.Sprintf("a condition must be true or false, and this expression gives %s", name)
		}
	case wantHub:
		if isOptional && len(got.Parameters()) == 1 {
			kind = got.Parameters()[0].Kind()
		}
		if kind == types.DynKind {
			return "whether the expression gives text is only known for a request; write string(…) around it"
		}
		if kind != types.StringKind {
			return fmt.Sprintf("a hub is named by text, and this expression gives %s", name)
		}
	case wantText:
		if kind == types.DynKind {
			return "whether the expression gives text is only known for a request; write string(…) around it"
		}
		if kind != types.StringKind {
			return fmt.Sprintf("the expression must give text, and gives %s", name)
		}
	case wantObject:
		if kind != types.DynKind && kind != types.MapKind {
			return fmt.Sprintf("the expression must give a map, and gives %s", name)
		}
	case wantValue:
		if kind == types.TypeKind {
			return "the expression gives a type, which is no value of JSON"
		}
	}
	return ""
}

// thinking is what expressions have cost one decision.
type thinking struct {
	ctx    context.Context
	cancel context.CancelFunc
	spent  uint64
}

func (t *thinking) end() {
	if t.cancel != nil {
		t.cancel()
	}
}

// eval computes the expression.
func (x *expression) eval(e *evaluation) (ref.Val, error) {
	t := &e.think
	if t.ctx == nil {
		t.ctx, t.cancel = context.WithTimeoutCause(e.ctx, e.policy.thinking, fmt.Errorf("it took longer than %s", e.policy.thinking))
	}
	if err := t.ctx.Err(); err != nil {
		return nil, e.trouble(x.at, context.Cause(t.ctx))
	}
	result, details, err := x.program.ContextEval(t.ctx, e.readVariables())
	if cost := details.ActualCost(); cost != nil {
		t.spent += *cost
	}
	switch cancelled, isCancelled := errors.AsType[interpreter.EvalCancelledError](err); {
	case isCancelled && cancelled.Cause == interpreter.CostLimitExceeded, err == nil && t.spent > maxCost:
		return nil, e.trouble(x.at, fmt.Errorf("the expression was stopped: it costs more than %d steps for this request", maxCost))
	case t.ctx.Err() != nil && err != nil:
		return nil, e.trouble(x.at, fmt.Errorf("the expression was stopped: %w", context.Cause(t.ctx)))
	case err != nil:
		return nil, x.failed(e, err)
	}
	return result, nil
}

// failed words an error of the interpreter, at its place in the file.
func (x *expression) failed(e *evaluation, err error) error {
	at := x.at
	if failure, ok := errors.AsType[*types.Err](err); ok && x.parsed != nil {
		if place := x.parsed.SourceInfo().GetStartLocation(failure.NodeID()); place.Line() > 0 {
			at.start = x.fileOffset(x.byteOffset(place.Line(), place.Column()))
		}
	}
	message := err.Error()
	if name, missing := strings.CutPrefix(message, "no such key: "); missing {
		message = fmt.Sprintf("%q is absent for this device; write .?%s with orValue(…), or ask with has(…)", name, name)
	}
	return e.trouble(at, errors.New(clip(message)))
}

// isTrue computes a condition.
func (x *expression) isTrue(e *evaluation) (bool, error) {
	result, err := x.eval(e)
	if err != nil {
		return false, err
	}
	held, ok := result.(types.Bool)
	if !ok {
		return false, e.trouble(x.at, fmt.Errorf("the condition gives %s, not true or false", result.Type().TypeName()))
	}
	return bool(held), nil
}

// text computes text. An empty optional gives none.
func (x *expression) text(e *evaluation) (text string, present bool, err error) {
	result, err := x.eval(e)
	if err != nil {
		return "", false, err
	}
	if optional, ok := result.(*types.Optional); ok {
		if !optional.HasValue() {
			return "", false, nil
		}
		result = optional.GetValue()
	}
	value, ok := result.(types.String)
	if !ok {
		return "", false, e.trouble(x.at, fmt.Errorf("the expression gives %s, not text", result.Type().TypeName()))
	}
	return string(value), true, nil
}

// document computes a value and gives it as JSON. An empty optional gives none.
func (x *expression) document(e *evaluation) (document json.RawMessage, present bool, err error) {
	result, err := x.eval(e)
	if err != nil {
		return nil, false, err
	}
	if optional, ok := result.(*types.Optional); ok {
		if !optional.HasValue() {
			return nil, false, nil
		}
		result = optional.GetValue()
	}
	document, err = appendValue(nil, result, 1)
	if err != nil {
		return nil, false, e.trouble(x.at, err)
	}
	return document, true, nil
}

// saw tells for an explanation what the members were that the expression names.
func (x *expression) saw(e *evaluation) string {
	var parts []string
	for _, path := range x.paths() {
		value := any(e.readVariables())
		for _, name := range path {
			object, _ := value.(map[string]any)
			value = object[name]
		}
		shown := toSeen(value)
		if hubs, ok := value.([]string); ok {
			shown = seen{present: true, several: hubs}
		}
		parts = append(parts, strings.Join(path, ".")+": "+shown.String())
	}
	return strings.Join(parts, ", ")
}

// paths lists the members that the expression names, each once.
func (x *expression) paths() [][]string {
	var paths [][]string
	var visit func(expr ast.Expr, isOperand bool)
	add := func(path []string) {
		if path == nil || slices.ContainsFunc(paths, func(known []string) bool { return slices.Equal(known, path) }) {
			return
		}
		paths = append(paths, path)
	}
	visit = func(expr ast.Expr, isOperand bool) {
		if path := pathOf(expr); path != nil && !isOperand {
			add(path)
			return
		}
		for _, child := range ast.NavigateExpr(x.parsed, expr).Children() {
			visit(child, false)
		}
	}
	visit(x.parsed.Expr(), false)
	return paths
}

// pathOf gives the names from a variable to a member, or nil.
func pathOf(expr ast.Expr) []string {
	switch expr.Kind() {
	case ast.IdentKind:
		if name := expr.AsIdent(); name == variableRequest || name == variableDevice || name == variablePayload {
			return []string{name}
		}
	case ast.SelectKind:
		if outer := pathOf(expr.AsSelect().Operand()); outer != nil {
			return append(outer, expr.AsSelect().FieldName())
		}
	case ast.CallKind:
		call := expr.AsCall()
		if name := call.FunctionName(); (name == "_?._" || name == "_[_]") && len(call.Args()) == 2 && call.Args()[1].Kind() == ast.LiteralKind {
			if text, ok := call.Args()[1].AsLiteral().(types.String); ok {
				if outer := pathOf(call.Args()[0]); outer != nil {
					return append(outer, string(text))
				}
			}
		}
	}
	return nil
}
