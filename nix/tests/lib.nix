# As much of the nixpkgs library as the flake, the package and the module use,
# so that they can be evaluated on a machine without nixpkgs. Same names, same
# meaning, fewer features: what is not here was not needed. `nix flake check`
# runs the same tests with the library itself.
let
  inherit (builtins)
    all
    attrNames
    concatMap
    concatStringsSep
    elem
    filter
    foldl'
    head
    isAttrs
    isBool
    isFloat
    isFunction
    isInt
    isList
    isString
    length
    listToAttrs
    map
    mapAttrs
    match
    readFile
    stringLength
    substring
    ;

  nameValuePair = name: value: { inherit name value; };
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
  namesOf = sets: unique (concatMap attrNames sets);

  hasPrefix = prefix: s: substring 0 (stringLength prefix) s == prefix;
  removePrefix =
    prefix: s: if hasPrefix prefix s then substring (stringLength prefix) (stringLength s) s else s;
  optionalString = condition: s: if condition then s else "";
  fileContents =
    file:
    let
      text = readFile file;
      last = stringLength text - 1;
    in
    if last >= 0 && substring last 1 text == "\n" then substring 0 last text else text;

  filterAttrsRecursive =
    keep: set:
    listToAttrs (
      concatMap (
        name:
        let
          value = set.${name};
        in
        if !keep name value then
          [ ]
        else
          [ (nameValuePair name (if isAttrs value then filterAttrsRecursive keep value else value)) ]
      ) (attrNames set)
    );

  isType = type: x: isAttrs x && (x._type or null) == type;
  isOption = isType "option";
  isDerivation = x: (x.type or null) == "derivation";
  showLoc = concatStringsSep ".";

  mkOption = attrs: attrs // { _type = "option"; };
  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };
  mkOptionDefault = mkOverride 1500;
  mkDefault = mkOverride 1000;
  mkForce = mkOverride 50;
  defaultPriority = 100;

  mkEnableOption =
    name:
    mkOption {
      type = types.bool;
      default = false;
      description = "Whether to enable ${name}.";
    };
  mkPackageOption =
    pkgs: name: _:
    mkOption {
      type = types.package;
      default = pkgs.${name};
      description = "The ${name} package to use.";
    };

  # From properties around a set to sets with properties around each value, so
  # that the names in a set are known before any condition is looked at.
  pushDown =
    def:
    if isType "if" def then
      map (mapAttrs (_: mkIf def.condition)) (pushDown def.content)
    else if isType "merge" def then
      concatMap pushDown def.contents
    else if isType "override" def then
      map (mapAttrs (_: mkOverride def.priority)) (pushDown def.content)
    else
      [ def ];

  # From a value with properties to the values that hold, with their priority.
  discharge =
    def:
    if isType "if" def then
      if def.condition then discharge def.content else [ ]
    else if isType "merge" def then
      concatMap discharge def.contents
    else if isType "override" def then
      map (d: d // { inherit (def) priority; }) (discharge def.content)
    else
      [
        {
          value = def;
          priority = defaultPriority;
        }
      ];

  # The value that definitions of one type have together.
  mergeDefinitions =
    loc: type: defs:
    let
      held = concatMap discharge defs;
      strongest = foldl' (p: d: if d.priority < p then d.priority else p) 10000 held;
      values = map (d: d.value) (filter (d: d.priority == strongest) held);
      wrong = filter (v: !type.check v) values;
    in
    if values == [ ] then
      throw "The option `${showLoc loc}' was accessed but has no value defined."
    else if wrong != [ ] then
      throw "A definition for option `${showLoc loc}' is not of type `${type.name}'."
    else
      type.merge loc values;

  mergeEqual =
    loc: values:
    if all (v: v == head values) values then
      head values
    else
      throw "The option `${showLoc loc}' has conflicting definition values.";

  scalar = name: check: {
    inherit name check;
    merge = mergeEqual;
  };

  types = rec {
    bool = scalar "boolean" isBool;
    str = scalar "string" isString;
    raw = scalar "raw value" (_: true);
    package = scalar "package" isDerivation;
    path = scalar "path" (x: hasPrefix "/" (if isAttrs x then x.outPath or "" else toString x));
    enum = values: scalar "one of ${concatStringsSep ", " values}" (x: elem x values);
    ints.between =
      low: high:
      scalar "integer between ${toString low} and ${toString high}" (x: builtins.isInt x && x >= low && x <= high);
    strMatching = regex: scalar "string matching ${regex}" (x: isString x && match regex x != null);

    nullOr = type: {
      name = "null or ${type.name}";
      check = x: x == null || type.check x;
      merge =
        loc: values:
        if all (v: v == null) values then
          null
        else if elem null values then
          throw "The option `${showLoc loc}' is defined both null and not null."
        else
          type.merge loc values;
    };

    listOf = type: {
      name = "list of ${type.name}";
      check = isList;
      merge = loc: values: map (v: mergeDefinitions loc type [ v ]) (concatMap (list: list) values);
    };

    attrsOf = type: {
      name = "attribute set of ${type.name}";
      check = isAttrs;
      merge =
        loc: values:
        genAttrs (namesOf values) (
          name:
          mergeDefinitions (loc ++ [ name ]) type (concatMap (v: if v ? ${name} then [ v.${name} ] else [ ]) values)
        );
    };

    submodule = module: {
      name = "submodule";
      check = x: isAttrs x || isFunction x;
      merge =
        loc: values:
        (evalModules {
          inherit loc;
          modules = [ module ] ++ map (config: { inherit config; }) values;
        }).config;
    };
  };

  # A JSON value: what formats.json of nixpkgs takes.
  jsonType = {
    name = "JSON value";
    check =
      x:
      x == null
      || isBool x
      || isInt x
      || isFloat x
      || isString x
      || (isList x && all jsonType.check x)
      || isAttrs x;
    merge =
      loc: values: if all isAttrs values then (types.attrsOf jsonType).merge loc values else mergeEqual loc values;
  };

  evalModules =
    {
      modules,
      specialArgs ? { },
      loc ? [ ],
    }:
    let
      load =
        module:
        let
          loaded = if isFunction module || isAttrs module then module else import module;
          body = if isFunction loaded then loaded ({ inherit config lib; } // specialArgs) else loaded;
          short = removeAttrs body [
            "imports"
            "options"
            "freeformType"
          ];
        in
        concatMap load (body.imports or [ ])
        ++ [
          {
            options = body.options or { };
            config = body.config or (if body ? options then { } else short);
            freeform = if body ? freeformType then [ body.freeformType ] else [ ];
          }
        ];
      loaded = concatMap load modules;
      freeform = concatMap (m: m.freeform) loaded;

      declare =
        at: trees:
        genAttrs (namesOf trees) (
          name:
          let
            here = concatMap (t: if t ? ${name} then [ t.${name} ] else [ ]) trees;
            declared = filter isOption here;
          in
          if declared == [ ] then
            declare (at ++ [ name ]) here
          else if length here == 1 then
            head here
          else
            throw "The option `${showLoc (at ++ [ name ])}' is declared twice."
        );

      define =
        at: tree: defs:
        let
          sets = concatMap pushDown defs;
          undeclared = filter (name: !(tree ? ${name})) (namesOf sets);
          named = name: concatMap (s: if s ? ${name} then [ s.${name} ] else [ ]) sets;
          declared = mapAttrs (
            name: node:
            let
              here = at ++ [ name ];
            in
            if !isOption node then
              define here node (named name)
            else if (node.readOnly or false) && named name != [ ] then
              throw "The option `${showLoc here}' is read-only, but it is set."
            else
              (node.apply or (x: x)) (
                mergeDefinitions here node.type (
                  named name ++ (if node ? default then [ (mkOptionDefault node.default) ] else [ ])
                )
              )
          ) tree;
          free = genAttrs undeclared (name: mergeDefinitions (at ++ [ name ]) (head freeform) (named name));
        in
        if undeclared == [ ] then
          declared
        else if freeform != [ ] then
          free // declared
        else
          throw "The option `${showLoc (at ++ [ (head undeclared) ])}' does not exist.";

      config = define loc (declare loc (map (m: m.options) loaded)) (map (m: m.config) loaded);
    in
    {
      inherit config;
    };

  lib = {
    inherit
      concatStringsSep
      evalModules
      fileContents
      filter
      filterAttrsRecursive
      genAttrs
      hasPrefix
      mkDefault
      mkEnableOption
      mkForce
      mkIf
      mkMerge
      mkOption
      mkPackageOption
      optionalString
      removePrefix
      types
      ;
    literalExpression = text: text;
    literalMD = text: text;
    cleanSource = path: path;
    licenses.asl20.spdxId = "Apache-2.0";
    platforms.linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];

    # Not of the nixpkgs library: formats come from its package set.
    stubFormats.json = _: {
      type = jsonType;
    };
  };
in
lib
