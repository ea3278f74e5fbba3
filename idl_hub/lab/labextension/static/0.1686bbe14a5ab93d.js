"use strict";(self.rspackChunkidl_hub=self.rspackChunkidl_hub||[]).push([[0],{18(e,r,o){var t=o(19),n=o.n(t),i=o(20),a=(o.n(i))()(n());a.push([e.id,`.idl-Status { display: flex; }
.idl-Status-button { display: inline-flex; gap: .6em; align-items: center; border: 0; margin: 0; padding: 0 4px; background: none; color: inherit; font: inherit; cursor: pointer; white-space: nowrap; }
.idl-Status-button:focus-visible { outline: 2px solid var(--jp-brand-color1); outline-offset: -2px; }
.idl-Status-urgent:empty { display: none; }
.idl-Status-urgent { font-weight: 700; font-variant-numeric: tabular-nums; }
.idl-Status.jp-mod-clicked { color: var(--jp-ui-inverse-font-color0); }
.idl-Status[data-tone="warning"]:not(.jp-mod-clicked) { background: var(--jp-warn-color3); color: var(--jp-ui-font-color0); }
.idl-Status[data-tone="error"]:not(.jp-mod-clicked) { background: var(--jp-error-color1); color: var(--jp-ui-inverse-font-color0); font-weight: 600; }

.idl-Panel { width: 350px; max-width: calc(100vw - 16px); max-height: 70vh; overflow: auto; box-sizing: border-box; padding: 1rem; background: var(--jp-layout-color1); color: var(--jp-ui-font-color1); font-size: var(--jp-ui-font-size1); line-height: 1.45; }
.idl-Panel:focus { outline: none; }
.idl-Panel h1 { margin: 0; font-size: 1.15em; font-weight: 600; }
.idl-Panel h2 { margin: 1.1em 0 .4em; font-size: 1em; font-weight: 600; }
.idl-Panel p { margin: 0; }
.idl-Panel-card + .idl-Panel-card { margin-top: 1em; padding-top: 1em; border-top: 1px solid var(--jp-border-color2); }
.idl-quiet { color: var(--jp-ui-font-color2); }
.idl-tag { margin-left: .6em; padding: .1em .55em; border-radius: 1em; background: var(--jp-warn-color3); color: var(--jp-ui-font-color0); font-size: .8em; font-weight: 600; vertical-align: middle; }
.idl-Panel-meter { display: grid; grid-template-columns: 4.5rem 1fr auto; gap: .7rem; align-items: center; margin-top: .5em; }
.idl-Panel-value { min-width: 6.5rem; text-align: right; font-variant-numeric: tabular-nums; }
.idl-Panel-bar { height: 6px; border-radius: 3px; background: var(--jp-layout-color3); overflow: hidden; }
.idl-Panel-bar > span { display: block; height: 100%; background: var(--jp-brand-color1); transition: width .3s; }
.idl-Panel-facts { display: grid; grid-template-columns: 7rem 1fr; gap: .15rem .7rem; margin: .9em 0 .6em; }
.idl-Panel-facts dt { color: var(--jp-ui-font-color2); }
.idl-Panel-facts dd { margin: 0; text-align: right; }
.idl-Panel-holders { list-style: none; margin: 0; padding: 0; }
.idl-Panel-holders li { display: flex; gap: .7rem; align-items: center; justify-content: space-between; padding: .3rem 0; border-top: 1px solid var(--jp-border-color2); }
.idl-Panel-holder { display: flex; flex-direction: column; min-width: 0; }
.idl-Panel-holder strong { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-weight: 600; }
.idl-Panel-holders button { flex: none; }
.idl-Panel .idl-Panel-remark { margin-top: 1em; padding: .5em .7em; border-left: 3px solid var(--jp-warn-color1); background: var(--jp-layout-color2); }
.idl-Panel [hidden], .idl-Notice [hidden] { display: none; }

.idl-Notices { position: fixed; z-index: 20000; top: 100px; left: 50%; transform: translateX(-50%); width: min(640px, calc(100vw - 16px)); display: flex; flex-direction: column; gap: .5rem; }
.idl-Notice { box-sizing: border-box; padding: .9rem 1.1rem; border: 1px solid var(--jp-border-color1); border-left: 6px solid var(--jp-warn-color1); border-radius: 4px; background: var(--jp-layout-color1); color: var(--jp-ui-font-color1); box-shadow: var(--jp-elevation-z12); font-size: var(--jp-ui-font-size1); line-height: 1.45; }
.idl-Notice[data-tone="error"] { border-left-color: var(--jp-error-color1); }
.idl-Notice h2 { margin: 0 0 .3rem; font-size: 1.15em; font-weight: 600; }
.idl-Notice p { margin: 0 0 .3rem; overflow-wrap: anywhere; }
.idl-Notice-timer { float: right; margin-left: 1rem; font-size: 1.7em; font-weight: 600; line-height: 1.1; font-variant-numeric: tabular-nums; }
.idl-Notice .idl-Notice-saved { color: var(--jp-ui-font-color2); }
.idl-Notice-actions { display: flex; flex-wrap: wrap; gap: .5rem; margin-top: .7rem; }
@media (prefers-reduced-motion: reduce) { .idl-Panel-bar > span { transition: none; } }
`,""]),o.d(r,{},{A:a})},20(e){e.exports=function(e){var r=[];return r.toString=function(){return this.map(function(r){var o="",t=void 0!==r[5];return r[4]&&(o+="@supports (".concat(r[4],") {")),r[2]&&(o+="@media ".concat(r[2]," {")),t&&(o+="@layer".concat(r[5].length>0?" ".concat(r[5]):""," {")),o+=e(r),t&&(o+="}"),r[2]&&(o+="}"),r[4]&&(o+="}"),o}).join("")},r.i=function(e,o,t,n,i){"string"==typeof e&&(e=[[null,e,void 0]]);var a={};if(t)for(var l=0;l<this.length;l++){var d=this[l][0];null!=d&&(a[d]=!0)}for(var c=0;c<e.length;c++){var s=[].concat(e[c]);t&&a[s[0]]||(void 0!==i&&(void 0===s[5]||(s[1]="@layer".concat(s[5].length>0?" ".concat(s[5]):""," {").concat(s[1],"}")),s[5]=i),o&&(s[2]&&(s[1]="@media ".concat(s[2]," {").concat(s[1],"}")),s[2]=o),n&&(s[4]?(s[1]="@supports (".concat(s[4],") {").concat(s[1],"}"),s[4]=n):s[4]="".concat(n)),r.push(s))}},r}},19(e){e.exports=function(e){return e[1]}},11(e,r,o){o.r(r);var t=o(12),n=o.n(t),i=o(13),a=o.n(i),l=o(14),d=o.n(l),c=o(15),s=o.n(c),p=o(16),u=o.n(p),f=o(17),m=o.n(f),g=o(18),v={};v.styleTagTransform=m(),v.setAttributes=s(),v.insert=d().bind(null,"head"),v.domAPI=a(),v.insertStyleElement=u(),n()(g.A,v);let h=g.A&&g.A.locals?g.A.locals:void 0;o.d(r,{},{default:h})},12(e){var r=[];function o(e){for(var o=-1,t=0;t<r.length;t++)if(r[t].identifier===e){o=t;break}return o}function t(e,t){for(var n={},i=[],a=0;a<e.length;a++){var l=e[a],d=t.base?l[0]+t.base:l[0],c=n[d]||0,s="".concat(d," ").concat(c);n[d]=c+1;var p=o(s),u={css:l[1],media:l[2],sourceMap:l[3],supports:l[4],layer:l[5]};if(-1!==p)r[p].references++,r[p].updater(u);else{var f=function(e,r){var o=r.domAPI(r);return o.update(e),function(r){r?(r.css!==e.css||r.media!==e.media||r.sourceMap!==e.sourceMap||r.supports!==e.supports||r.layer!==e.layer)&&o.update(e=r):o.remove()}}(u,t);t.byIndex=a,r.splice(a,0,{identifier:s,updater:f,references:1})}i.push(s)}return i}e.exports=function(e,n){var i=t(e=e||[],n=n||{});return function(e){e=e||[];for(var a=0;a<i.length;a++){var l=o(i[a]);r[l].references--}for(var d=t(e,n),c=0;c<i.length;c++){var s=o(i[c]);0===r[s].references&&(r[s].updater(),r.splice(s,1))}i=d}}},14(e){var r={};e.exports=function(e,o){var t=function(e){if(void 0===r[e]){var o=document.querySelector(e);if(window.HTMLIFrameElement&&o instanceof window.HTMLIFrameElement)try{o=o.contentDocument.head}catch(e){o=null}r[e]=o}return r[e]}(e);if(!t)throw Error("Couldn't find a style target. This probably means that the value for the 'insert' parameter is invalid.");t.appendChild(o)}},16(e){e.exports=function(e){var r=document.createElement("style");return e.setAttributes(r,e.attributes),e.insert(r,e.options),r}},15(e,r,o){e.exports=function(e){var r=o.nc;r&&e.setAttribute("nonce",r)}},13(e){e.exports=function(e){if("u"<typeof document)return{update:function(){},remove:function(){}};var r=e.insertStyleElement(e);return{update:function(o){var t,n,i;t="",o.supports&&(t+="@supports (".concat(o.supports,") {")),o.media&&(t+="@media ".concat(o.media," {")),(n=void 0!==o.layer)&&(t+="@layer".concat(o.layer.length>0?" ".concat(o.layer):""," {")),t+=o.css,n&&(t+="}"),o.media&&(t+="}"),o.supports&&(t+="}"),(i=o.sourceMap)&&"u">typeof btoa&&(t+="\n/*# sourceMappingURL=data:application/json;base64,".concat(btoa(unescape(encodeURIComponent(JSON.stringify(i))))," */")),e.styleTagTransform(t,r,e.options)},remove:function(){var e;null===(e=r).parentNode||e.parentNode.removeChild(e)}}}},17(e){e.exports=function(e,r){if(r.styleSheet)r.styleSheet.cssText=e;else{for(;r.firstChild;)r.removeChild(r.firstChild);r.appendChild(document.createTextNode(e))}}}}]);