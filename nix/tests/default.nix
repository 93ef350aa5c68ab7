# What the flake, the package and the module evaluate to, as texts by file name,
# and those that differ from golden/. See ./run.
{
  lib ? import ./lib.nix,
  formats ? lib.stubFormats,
}:
let
  inherit (builtins)
    attrNames
    concatMap
    filter
    functionArgs
    intersectAttrs
    isAttrs
    isList
    map
    mapAttrs
    pathExists
    readFile
    toJSON
    tryEval
    ;
  inherit (lib) concatStringsSep genAttrs;

  package = name: {
    type = "derivation";
    inherit name;
    outPath = "/nix/store/00000000000000000000000000000000-${name}";
  };

  # What the module, the package and the flake take from nixpkgs.
  pkgs = {
    coreutils = package "coreutils";
    nixfleet-agent = package "nixfleet-agent";
    stdenv = {
      hostPlatform.system = "x86_64-linux";
      buildPlatform.canExecute = _: true;
    };
    installShellFiles = package "install-shell-files";
    # A derivation that remembers what it was asked for.
    buildGoModule = args: package args.pname // { inherit args; };
    callPackage =
      file: given:
      let
        f = import file;
      in
      f (intersectAttrs (functionArgs f) (pkgs // { inherit lib; }) // given);
    emptyFile = package "empty";
    mkShell = _: package "shell";
    go = package "go";
    gcc = package "gcc";
    gnumake = package "gnumake";
    nixfmt = package "nixfmt";
    formats.json =
      args:
      formats.json args
      // {
        generate = name: value: package name // { json = value; };
      };
  };

  evaluate =
    modules:
    (lib.evalModules {
      modules = [ ./nixos.nix ] ++ modules;
      specialArgs = { inherit pkgs; };
    }).config;

  host = service: [
    ../module.nix
    {
      networking.hostName = "lab-7";
      services.nixfleet-agent = service;
    }
  ];

  unitOf = config: import ./unit.nix { inherit lib; } config.systemd.services.nixfleet-agent;
  configOf = config: pretty "" config.services.nixfleet-agent.configFile.json + "\n";
  refusalsOf = config: map (a: a.message) (filter (a: !a.assertion) config.assertions);

  # JSON, one value a line.
  pretty =
    indent: value:
    let
      deeper = indent + "  ";
      block =
        open: items: close:
        if items == [ ] then
          open + close
        else
          "${open}\n${concatStringsSep ",\n" (map (item: deeper + item) items)}\n${indent}${close}";
    in
    if isAttrs value then
      block "{" (map (key: "${toJSON key}: ${pretty deeper value.${key}}") (attrNames value)) "}"
    else if isList value then
      block "[" (map (pretty deeper) value) "]"
    else
      toJSON value;

  # Every option that the module declares, set.
  everything = {
    enable = true;
    settings = {
      stateDir = "/var/lib/fleet/agent";
      socketPath = "/run/fleet/agent.sock";
      socketGroup = "wheel";
      hostname = "lab-seven";
      soak = "1h30m";
      policy = "halt";
      criticalComponents = {
        kernel = "switch";
        systemd = "defer";
        "etc/fstab" = "ignore";
      };
      extraComponents = [
        "initrd"
        "etc/fstab"
      ];
      systemdIdentity = "path";
      deadlines = {
        realise = "2h";
        switch = "20m";
        boot = "90s";
      };
      verify = {
        signatures = 1;
        trustedKeys = [ "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=" ];
      };
      logLevel = "debug";
    };
  };

  agent = settings: host {
    enable = true;
    inherit settings;
  };

  minimal = evaluate (host {
    enable = true;
  });
  full = evaluate (
    host everything
    ++ [
      {
        networking.proxy.envVars.https_proxy = "http://proxy.example:3128";
      }
    ]
  );
  newer = evaluate (agent {
    addedByANewerAgent.depth = 3;
  });
  disabled = evaluate (host { });

  # Systems on which the agent has no business, and what they are told.
  refused = {
    "a container" = evaluate (agent { } ++ [ { boot.isContainer = true; } ]);
    "a system that cannot be switched" = evaluate (agent { } ++ [ { system.switch.enable = false; } ]);
    "state outside /var/lib" = evaluate (agent {
      stateDir = "/persist/agent";
    });
    "a socket outside /run" = evaluate (agent {
      socketPath = "/tmp/agent.sock";
    });
    "a socket in no directory of its own" = evaluate (agent {
      socketPath = "/run/agent.sock";
    });
    "nothing wrong" = minimal;
  };

  # Values that must not get as far as a host.
  rejected = {
    "nothing wrong" = agent { };
    "soak without a unit" = agent { soak = "10"; };
    "soak in words" = agent { soak = "ten minutes"; };
    "soak as a number" = agent { soak = 600; };
    "unknown policy" = agent { policy = "retry"; };
    "unknown handling of a component" = agent { criticalComponents.kernel = "reboot"; };
    "one component where a list is wanted" = agent { extraComponents = "initrd"; };
    "unknown systemd identity" = agent { systemdIdentity = "hash"; };
    "negative deadline" = agent { deadlines.switch = "-5m"; };
    "negative signatures" = agent { verify.signatures = -1; };
    "unknown log level" = agent { logLevel = "trace"; };
    "relative state directory" = agent { stateDir = "state"; };
    "a function in the settings" = agent { unknown = x: x; };
    "another configuration file" = host {
      enable = true;
      configFile = "/etc/agent.json";
    };
    "an option that does not exist" = host {
      enable = true;
      setings = { };
    };
  };
  isRejected =
    modules:
    !(tryEval (
      let
        config = evaluate modules;
      in
      builtins.deepSeq config.services.nixfleet-agent.configFile.json (unitOf config)
    )).success;

  flake = import ../../flake.nix;
  outputs = flake.outputs {
    self = outputs // {
      shortRev = "0123abc";
    };
    nixpkgs = {
      inherit lib;
      legacyPackages = genAttrs [ "x86_64-linux" "aarch64-linux" ] (_: pkgs);
    };
  };
  agentPackage = outputs.packages.x86_64-linux.default;
  viaFlake = evaluate [
    outputs.nixosModules.default
    {
      networking.hostName = "lab-7";
      services.nixfleet-agent.enable = true;
    }
  ];

  texts = {
    "minimal.service" = unitOf minimal;
    "minimal.json" = configOf minimal;
    "full.service" = unitOf full;
    "full.json" = configOf full;
    "newer.json" = configOf newer;
    "disabled.json" = pretty "" (attrNames disabled.systemd.services) + "\n";
    "refused.json" = pretty "" (mapAttrs (_: refusalsOf) refused) + "\n";
    "rejected.json" = pretty "" (mapAttrs (_: isRejected) rejected) + "\n";
    "package.json" = pretty "" (
      removeAttrs agentPackage.args [
        "src"
        "vendorHash"
      ]
      // {
        nativeBuildInputs = map (p: p.name) agentPackage.args.nativeBuildInputs;
        meta = removeAttrs agentPackage.args.meta [
          "license"
          "platforms"
        ];
      }
    ) + "\n";
    "flake.json" =
      pretty "" {
        inputs = attrNames flake.inputs;
        outputs = mapAttrs (_: output: if isAttrs output then mapAttrs (_: namesOf) output else "function") outputs;
        module = {
          execStart = viaFlake.systemd.services.nixfleet-agent.serviceConfig.ExecStart;
          packages = map (p: p.name) viaFlake.environment.systemPackages;
        };
        overlay = (outputs.overlays.default pkgs pkgs).nixfleet-agent.name;
      }
      + "\n";
  };
  namesOf = x: if isAttrs x && (x.type or null) != "derivation" then attrNames x else x.name or "function";

  golden = name: ./golden + "/${name}";
in
{
  inherit texts;
  names = concatStringsSep "\n" (attrNames texts ++ [ "" ]);
  mismatches = concatMap (
    name: if pathExists (golden name) && readFile (golden name) == texts.${name} then [ ] else [ name ]
  ) (attrNames texts);
}
