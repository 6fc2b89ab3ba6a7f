package server

import (
	_ "embed" // openapi.yaml
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"imagebind-llm/runner/modality"
	"imagebind-llm/runner/modality/all"
	"imagebind-llm/runner/runnerapi"
)

//go:embed openapi.yaml
var openapiYAML []byte

type schema = map[string]any

// openapiJSON is openapi.yaml with what package all lists: a part and form
// fields for each kind of input. That it can be written so is tested.
var openapiJSON = sync.OnceValue(func() []byte {
	var doc struct {
		Components struct {
			Schemas map[string]schema
			Others  schema `yaml:",inline"`
		}
		Others schema `yaml:",inline"`
	}
	if err := yaml.Unmarshal(openapiYAML, &doc); err != nil {
		panic(fmt.Sprintf("openapi.yaml: %v", err))
	}
	schemas := doc.Components.Schemas
	parts, form := schemas["Part"]["oneOf"].([]any), schemas["AskForm"]["properties"].(schema)
	for _, spec := range append([]modality.Spec{{Part: runnerapi.PartMedia}}, all.Specs...) {
		field := fieldOf(spec.Part)
		form[field] = list(schema{"type": "string"})
		form[field+"_weight"] = list(ref("Weight"))
		if spec.Part == runnerapi.PartBindText { // openapi.yaml has its part
			continue
		}
		form[field] = list(schema{"type": "string", "contentMediaType": "application/octet-stream"})
		location := schema{"url": schemas["URL"]["properties"].(schema)["url"]}
		for _, p := range spec.Params {
			s := schema{"type": p.Type(), "description": p.Doc, "default": p.Default, "minimum": p.Min, "maximum": p.Max}
			if p.IsSwitch {
				s = schema{"type": p.Type(), "description": p.Doc, "default": p.Default != 0}
			}
			location[p.Name] = s
			form[field+"_"+p.Name] = list(s)
		}
		parts = append(parts, schema{"type": "object", "required": []string{"type", spec.Part}, "properties": schema{
			"type":    schema{"const": spec.Part},
			spec.Part: schema{"type": "object", "required": []string{"url"}, "properties": location, "description": strings.Join(spec.Media, ", ")},
			"weight":  ref("Weight"),
		}})
	}
	schemas["Part"]["oneOf"] = parts
	out := schema{"components": schema{"schemas": schemas}}
	for name, v := range doc.Components.Others {
		out["components"].(schema)[name] = v
	}
	for name, v := range doc.Others {
		out[name] = v
	}
	b, err := json.Marshal(out)
	if err != nil {
		panic(fmt.Sprintf("openapi.yaml: %v", err))
	}
	return b
})

func list(of schema) schema  { return schema{"type": "array", "items": of} }
func ref(name string) schema { return schema{"$ref": "#/components/schemas/" + name} }
